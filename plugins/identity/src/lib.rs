//! Passes every message as it is.

use millstream_sdk::prelude::*;

pub struct Identity;

impl Plugin for Identity {
    type Config = NoConfig;
    const NAME: &'static str = "identity";
    const SUMMARY: &'static str =
        "Passes every message as it is: what `millstream plugin bench` compares with.";

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Identity)
    }
}

impl Filter for Identity {
    fn keep(&mut self, _: &Message<'_>) -> Result<bool, Failure> {
        Ok(true)
    }
}

millstream_sdk::export!(Identity);

#[cfg(test)]
mod tests {
    use millstream_sdk::testing::{Harness, check_fixtures};

    use super::*;

    #[test]
    fn the_example_does_what_the_fixtures_say() {
        let folder = env!("CARGO_MANIFEST_DIR");
        check_fixtures(folder, || Harness::of_example::<Identity, _>(folder, &[]));
    }
}
