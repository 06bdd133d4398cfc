//! Wraps payloads into the standard envelope, or checks that they stand in one.
//!
//! - [`config`]: both modes, and which fields go with which
//! - [`origin`]: where a field of a new envelope comes from
//! - [`wrap`], [`check`]: the modes
//! - [`id`]: identifiers in the form of a UUID of version 4

mod check;
mod config;
mod id;
mod origin;
mod wrap;

use millstream_sdk::prelude::*;

use check::Check;
use config::Mode;
use wrap::Wrap;

pub use config::Config;

/// The version of the envelope, which is that of CloudEvents 1.0.
const SPECVERSION: &str = "1.0";

/// The code of all rejections of this plugin itself.
const INVALID: &str = "envelope-invalid";

pub enum Envelope {
    Wrap(Box<Wrap>),
    Check(Check),
}

impl Plugin for Envelope {
    type Config = Config;
    const NAME: &'static str = "envelope";
    const SUMMARY: &'static str =
        "Wraps payloads into the standard envelope, or checks that they stand in one.";
    const READS: Reads = Reads::PAYLOAD.and(Reads::HEADERS).and(Reads::METADATA);

    fn new(config: Config) -> Result<Self, ConfigError> {
        config.only_what_goes_with_its_mode()?;
        match config.mode {
            Mode::Wrap => Wrap::new(config).map(|wrap| Envelope::Wrap(Box::new(wrap))),
            Mode::Check => Ok(Envelope::Check(Check::new(&config))),
        }
    }
}

impl Process for Envelope {
    fn process(&mut self, message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure> {
        match self {
            Envelope::Wrap(wrap) => wrap.process(message, out),
            Envelope::Check(check) => check.process(message, out),
        }
    }
}

millstream_sdk::export!(Envelope);

#[cfg(test)]
mod tests;
