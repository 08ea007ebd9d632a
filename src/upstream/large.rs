//! Events that are larger than the 16 MB that a message may have.
//!
//! Servers from 6.0.9 and 7.0 on can split them, and the fragments are joined here:
//! <https://www.mongodb.com/docs/manual/reference/operator/aggregation/changeStreamSplitLargeEvent/>.
//! On older servers such an event ends the cursor, every time. There it is read without its
//! documents, so that later events can be read, and the clients that it concerns are reset.

use bson::{RawDocument, RawDocumentBuf};
use mongodb::error::Error;
use tracing::warn;

use super::connect::Server;
use super::cursor::{self, ReadMode, Start};
use super::failure::Failure;
use super::patience::Patience;
use crate::event::raw::{Elements, tag};
use crate::event::{ChangeEvent, Position};
use crate::feed::{Collections, FeedKey};

/// The fragments of one event that have come so far.
#[derive(Default)]
pub struct Fragments(Vec<RawDocumentBuf>);

impl Fragments {
    /// Whether no event is half read, so that it is safe to resume at the last token.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what the server sent; gives the event when it is whole. Its token is that of the last
    /// fragment: whoever resumes there has all of it.
    ///
    /// # Errors
    /// When a fragment is missing: reading again from the last whole event helps.
    pub fn join(&mut self, raw: RawDocumentBuf) -> Result<Option<RawDocumentBuf>, Error> {
        let Some((fragment, of)) = place(&raw) else {
            return match self.0.is_empty() {
                true => Ok(Some(raw)),
                false => Err(out_of_order()),
            };
        };
        self.0.push(raw);
        if usize::try_from(fragment) != Ok(self.0.len()) {
            return Err(out_of_order());
        }
        if fragment < of {
            return Ok(None);
        }
        let mut whole = RawDocumentBuf::new();
        let fragments = std::mem::take(&mut self.0);
        let last = fragments.len() - 1;
        for (index, fragment) in fragments.iter().enumerate() {
            for field in fragment {
                let (key, value) = field.map_err(Error::custom)?;
                let is_of_the_whole = match key.as_str() {
                    "splitEvent" => false,
                    "_id" => index == last,
                    _ => true,
                };
                if is_of_the_whole {
                    whole.append(key, value);
                }
            }
        }
        Ok(Some(whole))
    }
}

/// Which fragment it is, from one, and of how many.
fn place(raw: &RawDocument) -> Option<(i64, i64)> {
    // Nearly every event is whole, and is looked through to its end for this.
    let split = Elements::new(raw.as_bytes()).find_key(b"splitEvent")?;
    let number = |key: &[u8]| {
        let value = split.elements().find_key(key)?;
        match value.tag {
            tag::INT32 => Some(i32::from_le_bytes(value.bytes()).into()),
            tag::INT64 => Some(value.i64()),
            _ => None,
        }
    };
    Some((number(b"fragment")?, number(b"of")?))
}

fn out_of_order() -> Error {
    Error::custom("the fragments of a large event came out of order")
}

/// Reads the one event after a position without its documents. `None` when there is none after all.
///
/// # Errors
/// Those of the driver.
async fn skim(
    server: &Server,
    key: &FeedKey,
    collections: &Collections,
    after: &Position,
) -> Result<Option<ChangeEvent>, Error> {
    let start = Start::after(after);
    let mut events =
        cursor::open(server, key, collections, &start, ReadMode::WithoutDocuments).await?;
    while let Some(raw) = events.next_if_any().await? {
        let event = ChangeEvent::parse_cut(raw).map_err(Error::custom)?;
        if event.token() > after {
            warn!(
                upstream = %key,
                collection = event.collection().unwrap_or_default(),
                operation = event.operation().name(),
                "an event is larger than 16 MB and is skipped: clients of its collection are \
                 reset. MongoDB 6.0.9 and newer can split it; smaller documents, or filters \
                 without images, help too"
            );
            return Ok(Some(event));
        }
    }
    Ok(None)
}

/// How to go on where the next event, or one soon after, is too large to be sent.
pub enum Detour {
    /// The events before it come one by one, and then the next is the large one.
    OneByOne,
    /// It was read without its documents, if it is there at all; then batches come again.
    Skimmed(Option<ChangeEvent>),
    /// Its key alone is too large for a message.
    Unreadable(Error),
    /// For another reason; one by one still.
    Failed(Error),
}

/// The next step past such an event, which lies behind this position; sets how to read on.
pub async fn detour(
    server: &Server,
    key: &FeedKey,
    collections: &Collections,
    after: &Position,
    (mode, patience): (&mut ReadMode, &mut Patience),
) -> Detour {
    if *mode == ReadMode::Batches {
        *mode = ReadMode::OneByOne;
        return Detour::OneByOne;
    }
    let detour = match patience.open(skim(server, key, collections, after)).await {
        Ok(event) => Detour::Skimmed(event),
        Err(error) if Failure::of(&error) == Failure::TooLarge => Detour::Unreadable(error),
        Err(error) => return Detour::Failed(error),
    };
    *mode = ReadMode::Batches;
    detour
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn fragments_become_one_event_with_the_last_token() {
        let mut fragments = Fragments::default();
        let first = rawdoc! { "_id": { "_data": "8201" }, "splitEvent": { "fragment": 1, "of": 2 },
        "operationType": "update", "fullDocument": { "a": 1 } };
        let second = rawdoc! { "_id": { "_data": "8202" }, "splitEvent": { "fragment": 2, "of": 2 },
        "updateDescription": { "b": 2 } };
        assert!(fragments.join(first.clone()).unwrap().is_none());
        assert!(!fragments.is_empty());
        let whole = fragments.join(second.clone()).unwrap().unwrap();
        assert_eq!(
            whole,
            rawdoc! { "operationType": "update", "fullDocument": { "a": 1 },
            "_id": { "_data": "8202" }, "updateDescription": { "b": 2 } }
        );
        assert!(fragments.is_empty());

        let small = rawdoc! { "_id": { "_data": "8203" } };
        assert_eq!(fragments.join(small.clone()).unwrap(), Some(small.clone()));
        assert!(Fragments::default().join(second).is_err());
        assert!(fragments.join(first).unwrap().is_none());
        assert!(fragments.join(small).is_err());
    }
}
