//! The difference between two JSON values as a JSON Patch (RFC 6902), as admission webhooks answer.
//!
//! Injection changes fields, adds fields and appends to lists; of that the patch is the shortest. A
//! list that got shorter is replaced as a whole, which is right and longer. The crate `json-patch`
//! compares too; ours is smaller than its types, and its steps are also what [`super::manifest`]
//! edits a file by.

use serde_json::{Value, json};

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub kind: StepKind,
    /// Keys and indexes from the root. That of an appended item is the list's length.
    pub path: Vec<String>,
    /// Null for a removal.
    pub value: Value,
}

/// The operations of [RFC 6902](https://www.rfc-editor.org/rfc/rfc6902) that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    Add,
    Replace,
    Remove,
}

/// What makes `new` of `old`.
pub fn diff(old: &Value, new: &Value) -> Vec<Step> {
    let mut steps = Vec::new();
    compare(old, new, &mut Vec::new(), &mut steps);
    steps
}

fn compare(old: &Value, new: &Value, path: &mut Vec<String>, steps: &mut Vec<Step>) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in old {
                path.push(key.clone());
                match new.get(key) {
                    Some(other) => compare(value, other, path, steps),
                    None => steps.push(step(StepKind::Remove, path, Value::Null)),
                }
                path.pop();
            }
            for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                path.push(key.clone());
                steps.push(step(StepKind::Add, path, value.clone()));
                path.pop();
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() <= new.len() => {
            for (index, value) in new.iter().enumerate() {
                path.push(index.to_string());
                match old.get(index) {
                    Some(other) => compare(other, value, path, steps),
                    None => steps.push(step(StepKind::Add, path, value.clone())),
                }
                path.pop();
            }
        }
        _ => steps.push(step(StepKind::Replace, path, new.clone())),
    }
}

fn step(kind: StepKind, path: &[String], value: Value) -> Step {
    Step { kind, path: path.to_vec(), value }
}

impl Step {
    /// As RFC 6902 writes it.
    pub fn to_json(&self) -> Value {
        let escaped = |key: &String| format!("/{}", key.replace('~', "~0").replace('/', "~1"));
        let path: String = self.path.iter().map(escaped).collect();
        match self.kind {
            StepKind::Add => json!({ "op": "add", "path": path, "value": self.value }),
            StepKind::Replace => json!({ "op": "replace", "path": path, "value": self.value }),
            StepKind::Remove => json!({ "op": "remove", "path": path }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Applies a patch as RFC 6902 says, by nothing that made it.
    fn apply(target: &mut Value, step: &Value) {
        let path = step["path"].as_str().unwrap();
        let Some((parent, key)) = path.rsplit_once('/') else {
            *target = step["value"].clone();
            return;
        };
        let key = key.replace("~1", "/").replace("~0", "~");
        match target.pointer_mut(parent).unwrap() {
            Value::Object(map) => match step["op"].as_str().unwrap() {
                "add" => assert!(map.insert(key, step["value"].clone()).is_none()),
                "replace" => assert!(map.insert(key, step["value"].clone()).is_some()),
                _ => assert!(map.shift_remove(&key).is_some()),
            },
            Value::Array(items) => {
                let index: usize = key.parse().unwrap();
                match step["op"].as_str().unwrap() {
                    "add" => items.insert(index, step["value"].clone()),
                    "replace" => items[index] = step["value"].clone(),
                    _ => drop(items.remove(index)),
                }
            }
            other => panic!("{other}"),
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3i64).prop_map(Value::from),
            "[a/~ ]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab/~]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_makes_the_one_of_the_other(old in any_json(), new in any_json()) {
            let mut patched = old.clone();
            for step in diff(&old, &new) {
                apply(&mut patched, &step.to_json());
            }
            prop_assert_eq!(patched, new);
        }
    }

    #[test]
    fn a_patch_is_short() {
        let old = json!({ "a/b": { "c": [1, 2] }, "d": 1 });
        let new = json!({ "a/b": { "c": [1, 3, 4] }, "e": { "f": 1 } });
        let steps: Vec<String> = diff(&old, &new).iter().map(|s| s.to_json().to_string()).collect();
        assert_eq!(
            steps,
            [
                r#"{"op":"replace","path":"/a~1b/c/1","value":3}"#,
                r#"{"op":"add","path":"/a~1b/c/2","value":4}"#,
                r#"{"op":"remove","path":"/d"}"#,
                r#"{"op":"add","path":"/e","value":{"f":1}}"#,
            ]
        );
        assert!(diff(&new, &new).is_empty());
    }
}
