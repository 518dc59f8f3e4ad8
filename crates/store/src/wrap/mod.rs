//! Stores around stores. Each keeps the contract of [`Store`](crate::Store) and adds one thing.

mod append_only;
mod fault;
mod limit;
mod meter;
mod record;
mod retry;

pub use append_only::AppendOnly;
pub use fault::{Fault, Faulty};
pub use limit::{Limit, Limits};
pub use meter::{Counts, Meter};
pub use record::{Call, Operation, Record};
pub use retry::Retry;
