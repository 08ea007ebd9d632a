//! What was there at a moment, by the database's own history. Pure.

use std::collections::HashMap;

use super::{Change, Key, Op};

/// The numbers of documents.
pub type Documents = HashMap<Key, i64>;

/// The documents of every collection, by database and name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct State(HashMap<(String, String), Documents>);

impl State {
    pub fn apply(&mut self, change: &Change) {
        let namespace = (change.database.clone(), change.collection.clone());
        match change.op {
            Op::Drop => drop(self.0.remove(&namespace)),
            Op::Rename => {
                let documents = self.0.remove(&namespace).unwrap_or_default();
                let to = change.to.clone().unwrap_or_default();
                self.0.insert((change.database.clone(), to), documents);
            }
            Op::Delete => drop(self.0.entry(namespace).or_default().remove(&change.key)),
            Op::Insert | Op::Update | Op::Replace => {
                let seq = change.seq.unwrap_or_default();
                self.0.entry(namespace).or_default().insert(change.key.clone(), seq);
            }
        }
    }

    /// What is there after all changes up to and including a place.
    pub fn at(&self, truth: &[Change], place: &str) -> State {
        let mut state = self.clone();
        let end = truth.partition_point(|change| change.token.as_str() <= place);
        truth[..end].iter().for_each(|change| state.apply(change));
        state
    }

    /// Those of one collection, and of one owner if one is named.
    pub fn documents(&self, database: &str, collection: &str, owner: Option<i64>) -> Documents {
        let all = self.0.get(&(database.to_string(), collection.to_string()));
        let is_meant = |key: &Key| owner.is_none_or(|owner| owner == key.owner);
        let meant = all.into_iter().flatten().filter(|(key, _)| is_meant(key));
        meant.map(|(key, seq)| (key.clone(), *seq)).collect()
    }
}

/// How documents differ from what is there.
pub fn difference(shown: &Documents, there: &Documents) -> Option<String> {
    let lacks = there.iter().filter(|(key, _)| !shown.contains_key(key)).count();
    let first = there
        .iter()
        .find(|(key, seq)| shown.get(key) != Some(seq))
        .map(|(key, seq)| format!("{key:?} is {seq}, and here {:?}", shown.get(key)))
        .or_else(|| {
            let gone = shown.keys().find(|key| !there.contains_key(key))?;
            Some(format!("{gone:?} is gone"))
        })?;
    let (had, have) = (shown.len(), there.len());
    Some(format!("{had} documents of {have}, {lacks} are missing; {first}"))
}
