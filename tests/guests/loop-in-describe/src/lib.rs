//! A plugin that never says what it is. It is a module of its own, for `describe` comes before the
//! configuration that tells `tests/hostile` what to do.

use millstream_sdk::bindings::exports::millstream::plugin::processor::Guest;
use millstream_sdk::bindings::millstream::plugin::types::{Batch, ConfigError, Description, Outcome};

pub struct LoopInDescribe;

impl Guest for LoopInDescribe {
    fn describe() -> Description {
        let mut turns = 0_u64;
        loop {
            turns = std::hint::black_box(turns.wrapping_add(1));
        }
    }

    fn configure(_: String) -> Result<(), ConfigError> {
        Ok(())
    }

    fn process(batch: Batch) -> Outcome {
        Outcome {
            verdicts: vec![0; batch.rows as usize],
            arena: Vec::new(),
            emitted: Vec::new(),
            headers: Vec::new(),
            timestamps: Vec::new(),
            routes: Vec::new(),
            reasons: Vec::new(),
        }
    }
}

#[cfg(target_arch = "wasm32")]
millstream_sdk::bindings::export!(LoopInDescribe with_types_in millstream_sdk::bindings);
