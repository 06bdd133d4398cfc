//! Any bytes as CBOR.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod formats;

#[cfg(fuzzing)]
mod target {
    use libfuzzer_sys::fuzz_target;
    use millstream_formats::cbor;

    use crate::formats;

    fuzz_target!(|bytes: &[u8]| formats::there_and_back(bytes, cbor::decode, cbor::encode));
}

#[cfg(not(fuzzing))]
fn main() {
    println!("runtime/fuzz/run.sh builds it as a fuzzer and runs it");
}
