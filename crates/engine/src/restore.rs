//! Bringing a snapshot back.

mod carry;

pub use carry::{Confirm, Mode, RestoreReport, carry_out};
