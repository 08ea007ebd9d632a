//! Opening a change stream and reading it: one place for the pipeline, the options and what a cursor
//! says, live or replayed.
//!
//! The pipeline holds namespaces and operation types, nothing that depends on a document: a
//! condition on a document can make the event of a resume token vanish, and with it the resume.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::error::Error;
use mongodb::options::AggregateOptions;
use mongodb::raw_batch_cursor::RawBatchCursor;
use tokio::sync::mpsc;

use super::connect::Server;
use super::failure::Failure;
use super::large::Fragments;
use super::patience::Silence;
use crate::event::{ChangeEvent, Position};
use crate::feed::{Collections, FeedKey};
use crate::filter::{FullDocument, FullDocumentBeforeChange};

/// How long the server waits for something new before it answers with its position alone.
const MAX_AWAIT: Duration = Duration::from_millis(500);

/// How many events the server sends at once, at most. Without it, it fills 16 MB, which are in memory
/// twice while they are taken apart.
const BATCH: u32 = 1000;

/// How long an event may be looked for.
const SEARCH: Duration = Duration::from_secs(30);

/// So much is read ahead of what is taken in, in events and in bytes: while that is done, the
/// server makes the next batch.
const AHEAD: (usize, usize) = (BATCH as usize, 1 << 20);

/// What a cursor says next: events, one or several, or that there are none.
#[derive(Debug)]
pub enum Next<T> {
    Events(T),
    /// Nothing within the server's wait; how far it has read, as it says.
    Nothing(Option<Position>),
    /// There is no more.
    Closed,
    Failed(Error),
}

/// How a cursor is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMode {
    Batches,
    /// So that what comes before an event that cannot be sent comes all the same.
    OneByOne,
    /// Without the documents, so that every event can be sent.
    WithoutDocuments,
}

/// A cursor. Gives events as the server sent them, fragments joined.
///
/// It takes the server's batches as they come. The driver's own change stream would note the token of
/// each event, and open itself again after errors, which is the business of whoever reads this.
pub struct Events {
    cursor: RawBatchCursor,
    /// Of the last batch, those that were not given yet.
    batch: std::vec::IntoIter<RawDocumentBuf>,
    /// How far the server had read with the last batch.
    past: Option<Position>,
    is_alive: bool,
    fragments: Fragments,
}

impl Events {
    /// The next event, or why there is none.
    pub async fn next(&mut self) -> Next<RawDocumentBuf> {
        match self.next_if_any().await {
            Ok(Some(raw)) => Next::Events(raw),
            // A cursor that has ended may still hold events: those before a dropped database.
            Ok(None) if !self.is_alive => Next::Closed,
            Ok(None) => Next::Nothing(self.read_past()),
            Err(error) => Next::Failed(error),
        }
    }

    /// With what came when it was opened.
    async fn opened(cursor: RawBatchCursor) -> Result<Events, Error> {
        let mut events = Events {
            cursor,
            batch: Vec::new().into_iter(),
            past: None,
            is_alive: true,
            fragments: Fragments::default(),
        };
        // It is there already. That it is empty does not mean yet that nothing is new.
        events.read_batch().await?;
        Ok(events)
    }

    /// The next event, or `None` when the server's wait went by without one. May be dropped and called
    /// again.
    ///
    /// # Errors
    /// Those of the driver; [`Failure::of`] says what they mean.
    pub async fn next_if_any(&mut self) -> Result<Option<RawDocumentBuf>, Error> {
        loop {
            for raw in self.batch.by_ref() {
                if let Some(whole) = self.fragments.join(raw)? {
                    return Ok(Some(whole));
                }
            }
            if !self.is_alive || !self.read_batch().await? {
                return Ok(None);
            }
        }
    }

    /// Takes the server's next answer; says whether there was any event in it.
    async fn read_batch(&mut self) -> Result<bool, Error> {
        let Some(batch) = self.cursor.try_next().await? else {
            self.is_alive = false;
            return Ok(false);
        };
        let reply = batch.as_raw_document().get_document("cursor").map_err(Error::custom)?;
        self.is_alive = reply.get_i64("id").is_ok_and(|id| id != 0);
        let token = reply.get_document("postBatchResumeToken").ok();
        self.past = token.and_then(|token| Position::from_server(token.get_str("_data").ok()?));
        let mut events = Vec::new();
        for raw in batch.doc_slices()? {
            let event = raw.map_err(Error::custom)?.as_document();
            events.push(event.ok_or_else(|| Error::custom("an event is no document"))?.to_owned());
        }
        let has_any = !events.is_empty();
        self.batch = events.into_iter();
        Ok(has_any)
    }

    /// Reads on and on, and sends what comes, until the cursor ends or nobody takes it any more. All
    /// of a batch that has come goes together, in order and at least one, and the next batch is asked
    /// for before that.
    pub async fn read_ahead(mut self, to: mpsc::Sender<Next<Vec<RawDocumentBuf>>>) {
        let (mut events, mut bytes) = (Vec::new(), 0);
        loop {
            let next = {
                let mut next = pin!(self.next());
                match poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await {
                    Poll::Ready(next) => next,
                    Poll::Pending => {
                        bytes = 0;
                        if !send(&to, &mut events).await {
                            return;
                        }
                        next.await
                    }
                }
            };
            let told = match next {
                Next::Events(raw) => {
                    bytes += raw.as_bytes().len();
                    events.push(raw);
                    if events.len() >= AHEAD.0 || bytes >= AHEAD.1 {
                        bytes = 0;
                        if !send(&to, &mut events).await {
                            return;
                        }
                    }
                    continue;
                }
                Next::Nothing(head) => Next::Nothing(head),
                Next::Closed => Next::Closed,
                Next::Failed(error) => Next::Failed(error),
            };
            bytes = 0;
            let is_over = !matches!(told, Next::Nothing(_));
            if !send(&to, &mut events).await || to.send(told).await.is_err() || is_over {
                return;
            }
        }
    }

    /// How far the stream has read, as the server says; not before all events up to there were given,
    /// and never between fragments.
    pub fn read_past(&self) -> Option<Position> {
        let is_whole = self.batch.as_slice().is_empty() && self.fragments.is_empty();
        self.past.clone().filter(|_| is_whole)
    }
}

/// Sends the events so far, if any. Returns whether the receiver still exists.
async fn send(
    to: &mpsc::Sender<Next<Vec<RawDocumentBuf>>>,
    events: &mut Vec<RawDocumentBuf>,
) -> bool {
    events.is_empty() || to.send(Next::Events(std::mem::take(events))).await.is_ok()
}

/// Where a change stream begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// At this cluster time, included.
    At(Timestamp),
    After(Position),
}

impl Start {
    /// Everything after a position. After one of our own forms that lies within a transaction, the
    /// stream begins with events that are not after it.
    pub fn after(position: &Position) -> Start {
        if position.is_ours() { Start::At(position.time()) } else { Start::After(position.clone()) }
    }

    /// The position from which a stream that begins here is complete.
    pub fn position(&self) -> Position {
        match self {
            Start::At(time) => Position::before(*time),
            Start::After(position) => position.clone(),
        }
    }
}

/// The stages that follow `$changeStream`; shown by `explain`.
pub fn pipeline(collections: &Collections) -> Vec<Document> {
    match collections {
        // One collection's own has a rename onto it, too.
        Collections::All | Collections::Alone(_) => Vec::new(),
        Collections::These(names) => {
            let names: Vec<Bson> = names.iter().map(|name| Bson::from(name.as_str())).collect();
            vec![doc! { "$match": { "$or": [
                { "ns.coll": { "$in": names.clone() } },
                // A rename onto one of them replaces it.
                { "to.coll": { "$in": names } },
                { "operationType": { "$in": ["dropDatabase", "invalidate"] } },
            ] } }]
        }
    }
}

/// Opens a change stream on a database, or on the one collection that may be read.
///
/// Behind an event, it is opened at that event's time, and read up to the event. `startAfter` with
/// the token would do the same on the server, but not always: beside `_data`, the token of an event
/// whose key holds a long, a double or a decimal has a second part, `_typeBits`, without which the
/// server may not find it, or not even read it. Clients do not hold that part. Where the event is
/// not found, the server is asked all the same, and says what it makes of the token.
///
/// # Errors
/// Those of the driver; [`Failure::of`] says what they mean.
pub async fn open(
    server: &Server,
    key: &FeedKey,
    collections: &Collections,
    start: &Start,
    pace: ReadMode,
) -> Result<Events, Error> {
    if let Start::After(position) = start
        && position.names_document()
        && !position.is_invalidate()
    {
        let find =
            |pace| tokio::time::timeout(SEARCH, find(server, key, collections, position, pace));
        let is_too_large = |error: &Error| Failure::of(error) == Failure::TooLarge;
        match find(pace).await {
            Ok(Ok(Some(events))) => return Ok(events),
            Ok(Ok(None)) => {}
            // It, or one soon after, cannot be sent. Where it is not found one by one either, or not
            // in time, `startAfter` passes over it, at least.
            Ok(Err(error)) if is_too_large(&error) => match find(ReadMode::OneByOne).await {
                Ok(Ok(Some(events))) => return Ok(events),
                Ok(Err(error)) if !is_too_large(&error) => return Err(error),
                _ => {}
            },
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(Silence(SEARCH).into()),
        }
    }
    open_at(server, key, collections, start, pace).await
}

/// A cursor right behind an event, if it is found at its time.
async fn find(
    server: &Server,
    key: &FeedKey,
    collections: &Collections,
    position: &Position,
    pace: ReadMode,
) -> Result<Option<Events>, Error> {
    let start = Start::At(position.time());
    let mut events = open_at(server, key, collections, &start, pace).await?;
    Ok(is_behind(&mut events, position).await?.then_some(events))
}

/// Reads up to an event, which is among the first; says whether it was there.
async fn is_behind(events: &mut Events, position: &Position) -> Result<bool, Error> {
    loop {
        let reached = match events.next().await {
            Next::Events(raw) => ChangeEvent::parse(raw).ok().map(|event| event.token().clone()),
            Next::Nothing(head) => head,
            Next::Closed => return Ok(false),
            Next::Failed(error) => return Err(error),
        };
        if let Some(reached) = reached.filter(|reached| reached >= position) {
            return Ok(reached == *position);
        }
    }
}

async fn open_at(
    server: &Server,
    key: &FeedKey,
    collections: &Collections,
    start: &Start,
    pace: ReadMode,
) -> Result<Events, Error> {
    let client = server.client().await;
    let mut stages = pipeline(collections);
    if pace == ReadMode::WithoutDocuments {
        stages.push(doc! { "$project": {
            "operationType": 1, "ns": 1, "to": 1, "documentKey": 1, "clusterTime": 1, "wallTime": 1,
        } });
    }
    let opened = async |stages: Vec<Document>| -> Result<Events, Error> {
        let database = client.database(&key.database);
        let stages = [vec![doc! { "$changeStream": stage(key, start, pace) }], stages].concat();
        let batch = match pace {
            ReadMode::Batches => Some(BATCH),
            ReadMode::OneByOne => Some(1),
            ReadMode::WithoutDocuments => None,
        };
        let options =
            AggregateOptions::builder().batch_size(batch).max_await_time(MAX_AWAIT).build();
        let cursor = match collections {
            Collections::Alone(name) => {
                let collection = database.collection::<Document>(name);
                collection.aggregate(stages).with_options(options).batch().await?
            }
            _ => database.aggregate(stages).with_options(options).batch().await?,
        };
        Events::opened(cursor).await
    };
    if server.lacks_split() {
        return opened(stages).await;
    }
    // It has to be the last stage.
    let split = [stages.clone(), vec![doc! { "$changeStreamSplitLargeEvent": {} }]].concat();
    match opened(split).await {
        Err(error) if Failure::of(&error) == Failure::Unsupported => {
            let events = opened(stages).await?;
            // Had the server no change streams at all, this one would have failed too.
            server.note_lacks_split();
            Ok(events)
        }
        opened => opened,
    }
}

/// The options of the `$changeStream` stage.
fn stage(key: &FeedKey, start: &Start, pace: ReadMode) -> Document {
    let mut stage = match start {
        Start::At(time) => doc! { "startAtOperationTime": *time },
        // Unlike `resumeAfter` it also takes the token of an invalidate event.
        Start::After(position) => doc! { "startAfter": { "_data": position.as_str() } },
    };
    if pace == ReadMode::WithoutDocuments {
        return stage;
    }
    match key.full_document {
        FullDocument::Default => {}
        FullDocument::UpdateLookup => drop(stage.insert("fullDocument", "updateLookup")),
        // What a filter requires is seen to by its routes: one image that is missing would end
        // the cursor for everybody.
        FullDocument::WhenAvailable | FullDocument::Required => {
            stage.insert("fullDocument", "whenAvailable");
        }
    }
    match key.before_image {
        FullDocumentBeforeChange::Off => {}
        FullDocumentBeforeChange::WhenAvailable | FullDocumentBeforeChange::Required => {
            stage.insert("fullDocumentBeforeChange", "whenAvailable");
        }
    }
    stage
}
