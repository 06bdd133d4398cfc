//! What all clients of AWS share: how a service is reached and who we are ([`access`]), what its
//! errors mean ([`failure`]), payloads in S3 ([`claim_check`]),
//! envelopes of SNS ([`notification`]).

pub mod access;
pub mod claim_check;
pub mod failure;
pub mod notification;

pub use access::{Access, Connection};
pub use failure::{Failure, Kind};
