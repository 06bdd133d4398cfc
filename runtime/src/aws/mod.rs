//! What all clients of AWS share: how a service is reached and who we are ([`access`]), and what its
//! errors mean ([`failure`]).

pub mod access;
pub mod failure;

pub use access::{Access, Connection};
pub use failure::{Failure, Kind};
