//! File trees for tests: made from a seed with everything that a backup must bring back, and
//! compared down to holes, links and nanoseconds.

mod compare;
mod make;

pub use compare::{Comparison, compare};
pub use make::{Made, TreeOptions, make};
