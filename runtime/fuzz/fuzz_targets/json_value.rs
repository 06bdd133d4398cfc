//! Any bytes as JSON. A decimal is written as a text, as which it is read: what is written of that is the same.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod formats;

#[cfg(fuzzing)]
mod target {
    use libfuzzer_sys::fuzz_target;
    use millstream_formats::{Error, Value, json};

    use crate::formats;

    fuzz_target!(|bytes: &[u8]| formats::there_and_back(bytes, as_written, json::encode));

    /// The value of what is written for the value of `bytes`.
    fn as_written(bytes: &[u8]) -> Result<Value, Error> {
        let value = json::decode(bytes)?;
        let mut written = Vec::new();
        json::encode(&value, &mut written).expect("what JSON has can be written as JSON");
        Ok(json::decode(&written)
            .unwrap_or_else(|error| panic!("{value:?} is written and not read: {error}")))
    }
}

#[cfg(not(fuzzing))]
fn main() {
    println!("runtime/fuzz/run.sh builds it as a fuzzer and runs it");
}
