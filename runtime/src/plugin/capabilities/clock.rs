//! The time of day, and random bytes.

use std::sync::{Arc, Mutex, PoisonError};

use rand::RngExt;
use rand::rngs::StdRng;

use super::super::bindings::{clock, random};
use super::super::guest::{Clock, Guest};
use super::{line_to_add, malformed};

/// Random bytes of one call, at most.
const MAX_RANDOM_BYTES: u32 = 64 << 10;

/// What a plugin is told in place of the time and of chance, so that its fixtures come out the same
/// each time: the time of its batch, and bytes of one stream.
pub type Determined = Arc<Mutex<StdRng>>;

impl clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<Result<u64, clock::ClockError>> {
        Clock::host_call(self, |guest| {
            if !guest.capabilities.grants.clock {
                let text = line_to_add("the clock is", "grants.clock = true");
                return Ok(Err(clock::ClockError::NotGranted(text)));
            }
            let now = match guest.determined {
                Some(_) => i128::from(guest.now_ms) * 1_000_000,
                None => jiff::Timestamp::now().as_nanosecond(),
            };
            Ok(Ok(u64::try_from(now).unwrap_or(0)))
        })
    }
}

impl random::Host for Guest {
    fn bytes(&mut self, count: u32) -> wasmtime::Result<Result<Vec<u8>, random::RandomError>> {
        Clock::host_call(self, |guest| {
            if !guest.capabilities.grants.random {
                let text = line_to_add("random bytes are", "grants.random = true");
                return Ok(Err(random::RandomError::NotGranted(text)));
            }
            if count > MAX_RANDOM_BYTES {
                let text = format!("asked for {count} random bytes at once; {MAX_RANDOM_BYTES} are the most");
                return Err(malformed(&text).into());
            }
            let mut bytes = vec![0; count as usize];
            match &guest.determined {
                Some(stream) => stream.lock().unwrap_or_else(PoisonError::into_inner).fill(&mut bytes[..]),
                None => rand::rng().fill(&mut bytes[..]),
            }
            Ok(Ok(bytes))
        })
    }
}
