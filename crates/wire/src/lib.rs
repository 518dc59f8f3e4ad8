//! What touches the machine and the network: each protocol client once, for sources and stores
//! alike, durable files, and the system clock.

pub mod azure;
pub mod backoff;
pub mod clock;
pub mod fs;
pub mod gcs;
pub mod http;
pub mod process;
pub mod s3;
pub mod ssh;
