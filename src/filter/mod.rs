//! Filter files.
