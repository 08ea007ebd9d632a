//! `GET {prefix}`: the streams that a client may open.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::asyncapi;
use super::refusal::Refusal;
use super::reserved::{Answer, Ask, Handler, Plain};
use crate::filter::{Access, Filter};

/// How many texts are kept.
const MAX_KEPT: usize = 16;

/// The latest lists, as text. Clients that may open the same streams are sent the same bytes: those that
/// do not read them hold nothing, and those that ask again and again cost little.
#[derive(Debug, Default)]
pub(super) struct Lists(Mutex<VecDeque<List>>);

#[derive(Debug)]
struct List {
    kind: Kind,
    filters: Vec<Arc<Filter>>,
    text: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    AsyncApi,
}

impl Lists {
    fn text(&self, kind: Kind, filters: Vec<Arc<Filter>>, prefix: &str) -> Bytes {
        let is_same = |list: &List| {
            list.kind == kind
                && list.filters.len() == filters.len()
                && list.filters.iter().zip(&filters).all(|(one, other)| Arc::ptr_eq(one, other))
        };
        if let Some(list) = self.0.lock().iter().find(|list| is_same(list)) {
            return list.text.clone();
        }
        // Not under the lock: there may be thousands of streams.
        let document = match kind {
            Kind::Plain => plain(&filters),
            Kind::AsyncApi => asyncapi::document(filters.iter().map(AsRef::as_ref), prefix),
        };
        let text = Bytes::from(document.to_string());
        let mut lists = self.0.lock();
        if lists.len() >= MAX_KEPT {
            lists.pop_front();
        }
        lists.push_back(List { kind, filters, text: text.clone() });
        text
    }
}

fn plain(filters: &[Arc<Filter>]) -> Value {
    let streams = filters.iter().map(|filter| {
        json!({
            "name": filter.name,
            "description": filter.description,
            "params": filter.params.to_json(),
            "snapshot": filter.snapshot().is_some(),
        })
    });
    json!({ "streams": streams.collect::<Vec<_>>() })
}

impl Handler {
    /// What this client may open. Of a stream that it may not, it learns nothing.
    pub(super) async fn list(&self, ask: Ask<'_>) -> Result<Answer, Refusal> {
        let visible = self.visible(ask).await?;
        Ok(answer("application/json", self.lists.text(Kind::Plain, visible, &self.prefix)))
    }

    /// The same as an AsyncAPI document.
    pub(super) async fn asyncapi(&self, ask: Ask<'_>) -> Result<Answer, Refusal> {
        let visible = self.visible(ask).await?;
        Ok(answer(asyncapi::CONTENT_TYPE, self.lists.text(Kind::AsyncApi, visible, &self.prefix)))
    }

    async fn visible(&self, ask: Ask<'_>) -> Result<Vec<Arc<Filter>>, Refusal> {
        let mut filters = self.catalog.filters();
        let is_all_public = filters.iter().all(|filter| matches!(filter.access, Access::Public));
        let right = match is_all_public {
            true => None,
            false => {
                // As for a stream: a place first, since asking who somebody is costs the app something.
                let _place = self.limits.take(ask.address).map_err(|full| self.full(full))?;
                match self.identify(ask.credentials).await {
                    Ok(right) => Some(right),
                    // Half a list would look like a whole one.
                    Err(refusal) if refusal.status() == 503 => return Err(refusal),
                    Err(_) => None,
                }
            }
        };
        let caller = right.map(|right| right.caller());
        let claims = caller.as_ref().map(|caller| caller.claims.document());
        filters.retain(|filter| filter.may_open(claims));
        Ok(filters)
    }
}

fn answer(content_type: &str, text: Bytes) -> Answer {
    Answer::Plain(Plain {
        status: 200,
        headers: vec![
            ("Content-Type", content_type.to_string()),
            ("Cache-Control", "no-store".to_string()),
        ],
        body: vec![text],
    })
}
