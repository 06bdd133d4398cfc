//! Values and schemas that proptest makes up.
#![allow(dead_code, reason = "each test uses its part of it")]

pub mod avro;
pub mod schemas;
pub mod values;
