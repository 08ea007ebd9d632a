//! Projections.

use bson::Document;

use super::ParseError;

/// A parsed `project`.
#[derive(Debug, Clone)]
pub struct Projection;

impl Projection {
    /// Parses a `project`.
    pub fn parse(_document: &Document) -> Result<Projection, Vec<ParseError>> {
        Ok(Projection)
    }
}
