//! `GET {prefix}`: the streams that a client may open.

use bytes::Bytes;
use serde_json::json;

use super::refusal::Refusal;
use super::reserved::{Answer, Ask, Desk, Plain};
use crate::filter::Access;

impl Desk {
    /// What this client may open. Of a stream that it may not, it learns nothing.
    pub(super) async fn list(&self, ask: Ask<'_>) -> Result<Answer, Refusal> {
        // As for a stream: a place first, since asking who somebody is costs the app something.
        let _place = self.limits.take(ask.address).map_err(|full| self.full(full))?;
        let filters = self.catalog.filters();
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
        let streams: Vec<_> = filters
            .iter()
            .filter(|filter| filter.may_open(claims))
            .map(|filter| {
                json!({
                    "name": filter.name,
                    "description": filter.description,
                    "params": filter.params.to_json(),
                })
            })
            .collect();
        Ok(Answer::Plain(Plain {
            status: 200,
            headers: vec![
                ("Content-Type", "application/json".to_string()),
                ("Cache-Control", "no-store".to_string()),
            ],
            body: Bytes::from(json!({ "streams": streams }).to_string()),
        }))
    }
}
