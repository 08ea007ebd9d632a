//! The directory of filter files: reading it, checking it, adding to it.

pub(super) mod check;
pub(super) mod directory;
pub(super) mod scaffold;
pub(super) mod stamp;
