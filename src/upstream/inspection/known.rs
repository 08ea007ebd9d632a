//! What is known of a deployment: the outcome of each step of a look, the newest one that there is.
//!
//! A step that fails changes nothing of what was known before, and says nothing of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Finding, Inspection};
use crate::filter::Filter;

/// A step of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// What the user may do.
    Rights,
    /// Which databases there are.
    Databases,
    /// How long images are kept.
    ImageExpiry,
    /// How far back the oplog reaches.
    Oplog,
    /// What a filter's collection is, by the list of its database.
    Collection,
    /// Whether a filter's snapshots can be taken.
    Snapshot,
    /// Whether a filter's values have the types of the fields.
    Values,
}

/// A part of what a look finds, as soon as it is found.
#[derive(Debug)]
pub enum Report {
    /// Databases that may not be read as a whole.
    WithoutRights(BTreeSet<String>),
    /// How far back the oplog reaches, where that may be seen.
    Reach(Option<Duration>),
    /// It is this filter's turn.
    Turn(Arc<Filter>),
    /// The outcome of a step, for a filter or for the deployment: what was found, or that it could
    /// not be looked at.
    Outcome { filter: Option<Arc<Filter>>, step: Step, found: Result<Vec<Finding>, Finding> },
}

/// The newest outcome of each step.
#[derive(Debug, Default)]
pub struct Known {
    outcomes: BTreeMap<(Option<String>, Step), Outcome>,
    filters: BTreeMap<String, Arc<Filter>>,
    /// By stream.
    turns: BTreeMap<String, Instant>,
    oplog: Option<Duration>,
    without_rights: BTreeSet<String>,
    is_new: bool,
}

#[derive(Debug, Default)]
struct Outcome {
    /// The last time that it worked.
    found: Vec<Finding>,
    /// That it did not, the last time.
    failure: Option<Finding>,
}

impl Known {
    /// Takes in a part of what a look finds.
    pub fn add(&mut self, report: Report) {
        self.is_new = true;
        match report {
            Report::WithoutRights(databases) => self.without_rights = databases,
            Report::Reach(reach) => self.oplog = reach,
            Report::Turn(filter) => {
                self.turns.insert(filter.name.clone(), Instant::now());
                self.filters.insert(filter.name.clone(), filter);
            }
            Report::Outcome { filter, step, found } => {
                let name = filter.as_ref().map(|filter| filter.name.clone());
                self.filters.extend(filter.map(|filter| (filter.name.clone(), filter)));
                let outcome = self.outcomes.entry((name, step)).or_default();
                match found {
                    Ok(found) => *outcome = Outcome { found, failure: None },
                    Err(failure) => outcome.failure = Some(failure),
                }
            }
        }
    }

    /// Forgets what is known of filters that there are no more, or that have another meaning.
    pub fn keep(&mut self, declared: &[Arc<Filter>]) {
        let declared: BTreeMap<&str, &Filter> =
            declared.iter().map(|filter| (filter.name.as_str(), &**filter)).collect();
        self.filters.retain(|name, filter| {
            declared.get(name.as_str()).is_some_and(|declared| declared.is_same(filter))
        });
        let Known { outcomes, filters, turns, .. } = self;
        outcomes.retain(|(name, _), _| name.as_ref().is_none_or(|name| filters.contains_key(name)));
        turns.retain(|name, _| filters.contains_key(name));
    }

    /// In the order in which they are to be looked at: first those that never were, then those that
    /// have not been for the longest time.
    pub fn in_turn(&self, mut declared: Vec<Arc<Filter>>) -> Vec<Arc<Filter>> {
        declared.sort_by_key(|filter| self.turns.get(&filter.name));
        declared
    }

    /// Whether anything was added since it was asked last.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// What could not be looked at the last time.
    pub fn failed(&self) -> BTreeSet<(Option<String>, Step)> {
        let failed = self.outcomes.iter().filter(|(_, outcome)| outcome.failure.is_some());
        failed.map(|(key, _)| key.clone()).collect()
    }

    /// The filters that it is about.
    pub fn filters(&self) -> Vec<Arc<Filter>> {
        self.filters.values().cloned().collect()
    }

    /// All of it together.
    pub fn inspection(&self) -> Inspection {
        let outcomes = self.outcomes.values();
        let findings =
            outcomes.flat_map(|outcome| outcome.found.iter().chain(&outcome.failure)).cloned();
        let mut findings: Vec<Finding> = findings.collect();
        findings.sort();
        Inspection { findings, oplog: self.oplog, without_rights: self.without_rights.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::filter::parse_filter;
    use crate::upstream::inspection::FindingKind;

    fn filter(name: &str, collection: &str) -> Arc<Filter> {
        let text = format!("collection: shop.{collection}\naccess: public\n");
        Arc::new(parse_filter(name, Path::new("a.yaml"), &text).expect("a filter"))
    }

    fn outcome(filter: &Arc<Filter>, step: Step, found: Result<&[FindingKind], ()>) -> Report {
        let finding = |kind: FindingKind| Finding::of(filter, kind, kind.name().to_owned(), None);
        let found = match found {
            Ok(kinds) => Ok(kinds.iter().map(|kind| finding(*kind)).collect()),
            Err(()) => Err(finding(FindingKind::NotInspected)),
        };
        Report::Outcome { filter: Some(filter.clone()), step, found }
    }

    fn kinds(known: &Known) -> Vec<FindingKind> {
        known.inspection().findings.iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn what_fails_changes_nothing_of_what_is_known() {
        let orders = filter("orders", "orders");
        let mut known = Known::default();
        known.add(Report::WithoutRights(BTreeSet::from(["shop".to_owned()])));
        known.add(Report::Reach(Some(Duration::from_secs(9))));
        known.add(outcome(&orders, Step::Collection, Ok(&[FindingKind::View])));
        known.add(outcome(&orders, Step::Values, Ok(&[FindingKind::ValueType])));
        assert!(known.take_news() && !known.take_news() && known.failed().is_empty());
        known.add(outcome(&orders, Step::Collection, Err(())));
        let all = [FindingKind::View, FindingKind::ValueType, FindingKind::NotInspected];
        assert_eq!(kinds(&known), all);
        let failed = BTreeSet::from([(Some("orders".to_owned()), Step::Collection)]);
        assert_eq!(known.failed(), failed);
        let Inspection { oplog, without_rights, .. } = known.inspection();
        assert!(oplog.is_some() && without_rights.contains("shop"));
        // Until it works again.
        known.add(outcome(&orders, Step::Collection, Ok(&[])));
        assert_eq!(kinds(&known), [FindingKind::ValueType]);
    }

    #[test]
    fn what_was_known_of_another_file_is_forgotten() {
        let (orders, bills) = (filter("orders", "orders"), filter("bills", "bills"));
        let mut known = Known::default();
        for filter in [&orders, &bills] {
            known.add(outcome(filter, Step::Collection, Ok(&[FindingKind::View])));
        }
        known.keep(&[orders.clone(), bills.clone()]);
        assert_eq!(kinds(&known).len(), 2);
        // The first one was edited.
        known.keep(&[filter("orders", "others"), bills.clone()]);
        let findings = known.inspection().findings;
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].stream.as_deref(), Some("bills"));
        known.keep(&[]);
        assert!(known.inspection().findings.is_empty() && known.filters().is_empty());
    }

    #[test]
    fn what_waits_longest_comes_first() {
        let all: Vec<Arc<Filter>> = ["a", "b", "c"].map(|name| filter(name, "orders")).into();
        let mut known = Known::default();
        let order = |known: &Known| {
            let order = known.in_turn(all.clone());
            order.iter().map(|filter| filter.name.clone()).collect::<String>()
        };
        assert_eq!(order(&known), "abc");
        known.add(Report::Turn(all[0].clone()));
        assert_eq!(order(&known), "bca");
        known.add(Report::Turn(all[2].clone()));
        known.keep(&all);
        assert_eq!(order(&known), "bac");
        known.keep(&all[1..]);
        assert_eq!(order(&known), "abc");
    }
}
