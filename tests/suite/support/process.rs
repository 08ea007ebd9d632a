//! What a process costs, as `/proc` tells.

use std::time::Duration;

/// In bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub resident: u64,
    /// Of that, what is no file: the pages of a program that the system has read in say nothing.
    pub anonymous: u64,
    /// The most that it was since the process began, or since [`forget_peak`].
    pub most: u64,
}

/// `None` when there is no such process any more.
pub fn memory_of(id: u32) -> Option<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some(Memory {
        resident: bytes("VmRSS:")?,
        anonymous: bytes("RssAnon:")?,
        most: bytes("VmHWM:")?,
    })
}

/// Lets the most memory of a process be counted anew.
pub fn forget_peak(id: u32) {
    // Where this is not allowed, the old peak goes on to count, which is only ever too much.
    let _ = std::fs::write(format!("/proc/{id}/clear_refs"), "5");
}

/// Processor time since its start, user and system. The grain is 10 ms.
pub fn cpu_of(id: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name may hold blanks.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    // A tick is 10 ms on every Linux that is in use.
    Some(Duration::from_millis(ticks * 10))
}
