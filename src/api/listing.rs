//! `GET {prefix}`: the streams that a client may open.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::asyncapi;
use super::refusal::Refusal;
use super::reserved::{Answer, Ask, Handler, Plain};
use crate::filter::{Access, Filter};

impl Handler {
    /// What this client may open. Of a stream that it may not, it learns nothing.
    pub(super) async fn list(&self, ask: Ask<'_>) -> Result<Answer, Refusal> {
        let streams: Vec<_> = self
            .visible(ask)
            .await?
            .iter()
            .map(|filter| {
                json!({
                    "name": filter.name,
                    "description": filter.description,
                    "params": filter.params.to_json(),
                    "snapshot": filter.snapshot().is_some(),
                })
            })
            .collect();
        Ok(answer("application/json", &json!({ "streams": streams })))
    }

    /// The same as an AsyncAPI document.
    pub(super) async fn asyncapi(&self, ask: Ask<'_>) -> Result<Answer, Refusal> {
        let visible = self.visible(ask).await?;
        let filters = visible.iter().map(AsRef::as_ref);
        Ok(answer(asyncapi::CONTENT_TYPE, &asyncapi::document(filters, &self.prefix)))
    }

    async fn visible(&self, ask: Ask<'_>) -> Result<Vec<Arc<Filter>>, Refusal> {
        // As for a stream: a place first, since asking who somebody is costs the app something.
        let _place = self.limits.take(ask.address).map_err(|full| self.full(full))?;
        let mut filters = self.catalog.filters();
        let is_all_public = filters.iter().all(|filter| matches!(filter.access, Access::Public));
        let right = match is_all_public {
            true => None,
            false => match self.identify(ask.credentials).await {
                Ok(right) => Some(right),
                // Half a list would look like a whole one.
                Err(refusal) if refusal.status() == 503 => return Err(refusal),
                Err(_) => None,
            },
        };
        let caller = right.map(|right| right.caller());
        let claims = caller.as_ref().map(|caller| caller.claims.document());
        filters.retain(|filter| filter.may_open(claims));
        Ok(filters)
    }
}

fn answer(content_type: &str, body: &Value) -> Answer {
    Answer::Plain(Plain {
        status: 200,
        headers: vec![
            ("Content-Type", content_type.to_string()),
            ("Cache-Control", "no-store".to_string()),
        ],
        body: Bytes::from(body.to_string()),
    })
}
