//! What an inspection may find, and how much it weighs.

use crate::filter::Filter;

/// One thing that a person should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// `None`: it concerns all of them.
    pub stream: Option<String>,
    pub kind: FindingKind,
    /// In words, without secrets.
    pub message: String,
    /// The command that mends it, for `mongosh`, or what else to do.
    pub fix: Option<String>,
}

/// What it is about; its name is a label of the metric `filter_findings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingKind {
    /// No replica set, or nothing that answers.
    Deployment,
    /// The user may not read the change stream.
    Rights,
    View,
    TimeSeries,
    MissingDatabase,
    MissingCollection,
    /// There is a collection or database of this name in other case.
    OtherCase,
    /// A default collation: `find` sees more than the stream.
    Collation,
    /// Text is compared with a field that holds something else.
    ValueType,
    /// Images that the filter asks for are not kept.
    Images,
    /// Images go earlier than the events in memory.
    ImageExpiry,
    /// There can be no snapshots.
    Snapshot,
    /// No index carries the query of a snapshot.
    SnapshotIndex,
    /// A snapshot would be larger than it may be.
    SnapshotSize,
    /// What a snapshot costs, which is all right.
    SnapshotCost,
    /// The oplog reaches less far back than clients may be away.
    Oplog,
    /// What this user may not see.
    Unknown,
    /// What could not be looked at, for another reason.
    NotInspected,
}

/// What follows from a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The stream does not work.
    Error,
    /// It works, and perhaps not as meant.
    Warning,
    /// It could not be looked at.
    Unknown,
    /// Nothing is wrong.
    Note,
}

impl FindingKind {
    /// How serious it is for the stream, whatever the deployment; `check` takes its severity from
    /// this.
    pub fn weight(self) -> Weight {
        match self {
            FindingKind::Deployment
            | FindingKind::Rights
            | FindingKind::View
            | FindingKind::TimeSeries
            | FindingKind::Snapshot => Weight::Error,
            FindingKind::MissingDatabase
            | FindingKind::MissingCollection
            | FindingKind::OtherCase
            | FindingKind::Collation
            | FindingKind::ValueType
            | FindingKind::Images
            | FindingKind::ImageExpiry
            | FindingKind::SnapshotIndex
            | FindingKind::SnapshotSize
            | FindingKind::Oplog
            | FindingKind::NotInspected => Weight::Warning,
            FindingKind::Unknown => Weight::Unknown,
            FindingKind::SnapshotCost => Weight::Note,
        }
    }

    /// Whether nothing can ever come, however long one waits.
    pub fn is_final(self) -> bool {
        matches!(self, FindingKind::View | FindingKind::TimeSeries)
    }

    /// For metrics and machines.
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::Deployment => "deployment",
            FindingKind::Rights => "rights",
            FindingKind::View => "view",
            FindingKind::TimeSeries => "time-series",
            FindingKind::MissingDatabase => "missing-database",
            FindingKind::MissingCollection => "missing-collection",
            FindingKind::OtherCase => "other-case",
            FindingKind::Collation => "collation",
            FindingKind::ValueType => "value-type",
            FindingKind::Images => "images",
            FindingKind::ImageExpiry => "image-expiry",
            FindingKind::Snapshot => "snapshot",
            FindingKind::SnapshotIndex => "snapshot-index",
            FindingKind::SnapshotSize => "snapshot-size",
            FindingKind::SnapshotCost => "snapshot-cost",
            FindingKind::Oplog => "oplog",
            FindingKind::Unknown => "unknown",
            FindingKind::NotInspected => "not-inspected",
        }
    }
}

impl Finding {
    pub(super) fn of(
        filter: &Filter,
        kind: FindingKind,
        message: String,
        fix: impl Into<Option<String>>,
    ) -> Finding {
        Finding { stream: Some(filter.name.clone()), kind, message, fix: fix.into() }
    }

    pub(super) fn general(
        kind: FindingKind,
        message: String,
        fix: impl Into<Option<String>>,
    ) -> Finding {
        Finding { stream: None, kind, message, fix: fix.into() }
    }

    /// Message and fix in one line.
    pub fn text(&self) -> String {
        match &self.fix {
            Some(fix) => format!("{}: {fix}", self.message),
            None => self.message.clone(),
        }
    }
}
