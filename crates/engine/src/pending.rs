//! Stands in for parts of other crates until they land; goes away with them.
use lifeboat_source::{SourceError, Target};
pub(crate) fn not_yet() -> crate::JobError {
    crate::JobError::Usage { what: "not built yet".to_owned(), hint: None }
}
pub(crate) fn target() -> Result<Box<dyn Target>, SourceError> {
    Err(SourceError::Config { what: "not built yet".to_owned(), hint: None })
}
