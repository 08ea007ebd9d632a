//! The `Date` header for answers without one, made once a second.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, BytesMut};

struct Cached {
    second: u64,
    line: String,
}

thread_local! {
    static CACHED: RefCell<Cached> = const {
        RefCell::new(Cached { second: 0, line: String::new() })
    };
}

/// Appends the line, with its CR LF.
pub fn put(out: &mut BytesMut) {
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    CACHED.with_borrow_mut(|cached| {
        if cached.second != since.as_secs() {
            cached.second = since.as_secs();
            cached.line = format!("Date: {}\r\n", httpdate::fmt_http_date(now));
        }
        out.put_slice(cached.line.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_now() {
        let mut out = BytesMut::new();
        put(&mut out);
        put(&mut out);
        let text = String::from_utf8(out.to_vec()).unwrap();
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        assert_eq!(lines.len(), 2);
        for line in lines {
            let date = line.strip_prefix("Date: ").unwrap();
            let date = httpdate::parse_http_date(date).unwrap();
            assert!(date.elapsed().unwrap() < Duration::from_secs(3), "{line}");
        }
    }
}
