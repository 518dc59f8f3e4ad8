//! The stores of clouds, on real servers.

mod azure;
mod s3;
