//! Server-Sent Events as the standard reads them: bytes in, events out. Pure.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `message` where the stream names none.
    pub kind: String,
    pub data: String,
    /// The position when it came; empty: none yet.
    pub id: String,
}

/// The state of one connection. The position outlives it: see [`Parser::reconnect`].
#[derive(Debug, Default)]
pub struct Parser {
    /// What has come of a line that has not ended.
    line: Vec<u8>,
    /// Whether the last byte was a carriage return, which ends a line with the line feed behind it.
    after_return: bool,
    is_begun: bool,
    kind: String,
    data: String,
    has_data: bool,
    /// Of the block that is being read; it counts when the block ends.
    id: Option<String>,
    pub last_event_id: String,
    /// How long to wait before connecting again, in milliseconds; as the stream says.
    pub retry_millis: Option<u64>,
}

/// A longer line is no event of ours.
const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

impl Parser {
    /// Behind an event that is known already; empty: none.
    pub fn starting_at(last_event_id: String) -> Parser {
        Parser { last_event_id, ..Parser::default() }
    }

    /// Takes what came, and gives the events that it completes.
    ///
    /// # Errors
    /// A line that is too long.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>, String> {
        let mut events = Vec::new();
        for byte in bytes {
            let was_return = std::mem::replace(&mut self.after_return, *byte == b'\r');
            match byte {
                b'\n' if was_return => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.end_line(&String::from_utf8_lossy(&line)));
                }
                byte if self.line.len() < MAX_LINE_BYTES => self.line.push(*byte),
                _ => return Err("a line of more than 64 MiB".to_owned()),
            }
        }
        Ok(events)
    }

    /// The connection is gone: what was not complete goes with it, the position stays.
    pub fn reconnect(&mut self) {
        let last_event_id = std::mem::take(&mut self.last_event_id);
        *self = Parser { last_event_id, retry_millis: self.retry_millis, ..Parser::default() };
    }

    fn end_line(&mut self, line: &str) -> Option<Event> {
        let line = match std::mem::replace(&mut self.is_begun, true) {
            false => line.strip_prefix('\u{feff}').unwrap_or(line),
            true => line,
        };
        if line.is_empty() {
            return self.end_block();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry_millis = value.parse().ok();
            }
            // Comments, and fields of the future.
            _ => {}
        }
        None
    }

    fn end_block(&mut self) -> Option<Event> {
        if let Some(id) = self.id.take() {
            self.last_event_id = id;
        }
        let kind = std::mem::take(&mut self.kind);
        let data = std::mem::take(&mut self.data);
        if !std::mem::take(&mut self.has_data) {
            return None;
        }
        let kind = if kind.is_empty() { "message".to_owned() } else { kind };
        Some(Event { kind, data, id: self.last_event_id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<(String, String, String)>, Parser) {
        let mut whole = Parser::default();
        let events = whole.take(text.as_bytes()).unwrap();
        // However it is cut, it reads the same.
        let mut bytewise = Parser::default();
        let one_by_one: Vec<Event> =
            text.bytes().flat_map(|byte| bytewise.take(&[byte]).unwrap()).collect();
        assert_eq!(events, one_by_one);
        (events.into_iter().map(|event| (event.kind, event.data, event.id)).collect(), whole)
    }

    #[test]
    fn events_as_the_standard_has_them() {
        let event =
            |kind: &str, data: &str, id: &str| (kind.to_owned(), data.to_owned(), id.to_owned());
        assert_eq!(read("data: a\nid: 1\n\n").0, [event("message", "a", "1")]);
        assert_eq!(
            read("\u{feff}event: x\r\ndata:a\r\ndata: b\r\n\r\n").0,
            [event("x", "a\nb", "")]
        );
        assert_eq!(
            read("data\n\ndata\ndata\n\n").0,
            [event("message", "", ""), event("message", "\n", "")]
        );
        assert_eq!(read(": beat\n\nevent: x\n\ndata: y\r\r").0, [event("message", "y", "")]);
        assert_eq!(read("data: half").0, []);

        // An id alone is a position, and no event.
        let (events, parser) = read("id: 7\n\nretry: 250\nretry: x\n");
        assert_eq!((events.len(), parser.last_event_id.as_str()), (0, "7"));
        assert_eq!(parser.retry_millis, Some(250));
        let (_, parser) = read("id: 7\n\nid: 8\ndata: x\n");
        assert_eq!(parser.last_event_id, "7");
    }

    #[test]
    fn what_was_cut_off_is_not_carried_over() {
        let mut parser = Parser::default();
        parser.take(b"retry: 9\nid: 1\ndata: a\n\nid: 2\nevent: x\ndata: b").unwrap();
        parser.reconnect();
        assert_eq!(
            parser.take(b"data: c\n\n").unwrap(),
            [Event { kind: "message".into(), data: "c".into(), id: "1".into() }]
        );
        assert_eq!(parser.retry_millis, Some(9));
    }
}
