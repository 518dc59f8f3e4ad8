//! What tests and benches share: data makers, fakes beside the real thing, launchers of real
//! servers. Never a dependency of the product.

pub mod context;
pub mod crash;
pub mod effort;
pub mod mixed;
pub mod postgres;
pub mod snapshot;
pub mod stale;
pub mod tree;
