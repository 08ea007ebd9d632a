//! What a client's message over a WebSocket asks for. Pure.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::api::problem::Problem;
use crate::api::wanted::{self, WantedStream};
use crate::event::seal::Ids;
use crate::session::bookmark::Label;

/// What a client's message says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub subscribe: Option<String>,
    pub unsubscribe: Option<String>,
    #[serde(rename = "as")]
    pub alias: Option<String>,
    #[serde(default)]
    params: Map<String, Value>,
    resume: Option<String>,
    since: Option<String>,
}

impl Message {
    /// # Errors
    /// A 400 that says what a message looks like.
    pub fn parse(text: &str) -> Result<Message, Problem> {
        let refuse = |error: &str| {
            let detail = format!(
                "{error}; a message is {{\"subscribe\":\"STREAM\",\"as\":\"NAME\"}} or \
                 {{\"unsubscribe\":\"NAME\"}}"
            );
            Problem::new(400, detail)
        };
        // The members of an array would be taken as those of the object, in the order of their declaration.
        if text.trim_start().starts_with('[') {
            return Err(refuse("not an object"));
        }
        serde_json::from_str(text).map_err(|error| refuse(&error.to_string()))
    }

    /// Which member names the subscription that a message is about, and its value: also of a message
    /// that is wrong otherwise, as long as it is JSON.
    pub fn name_in(text: &str) -> Option<(&'static str, String)> {
        let message = serde_json::from_str::<Map<String, Value>>(text).ok()?;
        let value = |member: &str| match message.get(member)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let name = value("as").map(|alias| ("as", alias));
        let name = name.or_else(|| Some(("stream", value("subscribe")?)));
        name.or_else(|| Some(("as", value("unsubscribe")?)))
    }

    /// The stream that it subscribes to.
    ///
    /// # Errors
    /// A 400 that names what is wrong.
    pub fn wanted(self, ids: &Ids) -> Result<WantedStream, Problem> {
        if self.alias.as_deref() == Some("") {
            return Err(wanted::no_alias(&self.subscribe.unwrap_or_default()));
        }
        let mut query = Vec::new();
        for (name, value) in self.params {
            let values = match value {
                Value::Array(values) => values,
                value => vec![value],
            };
            for value in values {
                let text = match value {
                    Value::String(text) => text,
                    Value::Number(number) => number.to_string(),
                    Value::Bool(truth) => truth.to_string(),
                    Value::Null | Value::Array(_) | Value::Object(_) => {
                        let detail = format!("parameter `{name}`: text, a number or a truth value");
                        return Err(Problem::new(400, detail));
                    }
                };
                query.push((name.clone(), text));
            }
        }
        let since = self.since.as_deref().map(wanted::since).transpose()?;
        let id = self.resume.filter(|id| !id.is_empty());
        let is_since = since.is_some() && id.is_none();
        let from = wanted::from(id.as_deref(), since, ids);
        let label = Label::new(&self.subscribe.unwrap_or_default(), self.alias.as_deref());
        Ok(WantedStream { label, query, from, is_since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_values() {
        let message = |text: &str| Message::parse(text).unwrap().wanted(&Ids::Token);
        let wanted = message(
            r#"{"subscribe":"a","as":"1","params":{"n":3,"b":true,"s":["x","y"]},"since":"30s"}"#,
        )
        .unwrap();
        let pairs = [("n", "3"), ("b", "true"), ("s", "x"), ("s", "y")];
        assert_eq!(wanted.query, pairs.map(|(k, v)| (k.to_string(), v.to_string())));
        assert_eq!(wanted.label.name(), "1");
        assert!(wanted.is_since);
        assert!(message(r#"{"subscribe":"a","params":{"n":{"$ne":1}}}"#).is_err());
        let refused = message(r#"{"subscribe":"a","as":""}"#).err().unwrap();
        assert!(refused.detail.contains("is empty"), "{refused:?}");
        let refused = Message::parse(r#" ["a",null,"1",{},null,null]"#).err().unwrap();
        assert!(refused.detail.starts_with("not an object; "), "{refused:?}");
        let of_number = Message::name_in(r#"{"subscribe":"a","as":6}"#);
        assert_eq!(of_number, Some(("as", "6".to_owned())));
    }
}
