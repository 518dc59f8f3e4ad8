//! What touches the machine and the network: each protocol client once, for sources and stores
//! alike, durable files, and the system clock.

pub mod backoff;
pub mod clock;
pub mod fs;
pub mod process;
