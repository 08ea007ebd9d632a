//! What a test's own thread has worked. Unlike the time that went by, it does not grow when others
//! need the machine too, so that growth can be told from noise.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The CPU time of the calling thread since it began; only differences between two are of use.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let part = |part: i64| u64::try_from(part).unwrap_or_default();
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

/// The least of five: caches and page faults differ all the same.
pub fn of(mut run: impl FnMut()) -> Duration {
    let mut time = || {
        let begun = now();
        run();
        now() - begun
    };
    (0..5).map(|_| time()).min().unwrap_or_default()
}
