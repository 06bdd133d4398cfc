//! What [`export!`](crate::export) exports: the contract on one side, the traits on the other.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Once;

use crate::bindings::millstream::plugin::types;
use crate::config::{self, ConfigError};
use crate::log;
use crate::message::Batch;
use crate::output::{Output, SizeHint};
use crate::plugin::{Filter, Map, Plugin, Process, Verdict};

/// A plugin that is one of [`Filter`], [`Map`] and [`Process`]; `How` tells which.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does nothing with a message",
    note = "implement `Plugin` and one of `Filter`, `Map` and `Process` for it"
)]
pub trait Behaviour<How>: Plugin {
    fn run(&mut self, batch: &Batch<'_>, out: &mut Output);
}

pub struct AsFilter;
pub struct AsMap;
pub struct AsProcess;

impl<P: Filter> Behaviour<AsFilter> for P {
    fn run(&mut self, batch: &Batch<'_>, out: &mut Output) {
        for message in batch.messages() {
            let verdict = self.keep(&message).map(Verdict::pass_if);
            out.settle(verdict);
        }
    }
}

impl<P: Map> Behaviour<AsMap> for P {
    fn run(&mut self, batch: &Batch<'_>, out: &mut Output) {
        for message in batch.messages() {
            let verdict = match self.map(&message) {
                Ok(payload) => out.emit().payload_json(&payload).map(|_| Verdict::Emit),
                Err(failure) => Err(failure),
            };
            out.settle(verdict);
        }
    }
}

impl<P: Process> Behaviour<AsProcess> for P {
    fn run(&mut self, batch: &Batch<'_>, out: &mut Output) {
        self.process_batch(batch, out);
    }
}

/// A configured plugin.
pub(crate) trait Instance {
    fn process(&mut self, batch: &types::Batch) -> types::Outcome;
}

struct Configured<P, How> {
    plugin: P,
    last: SizeHint,
    how: PhantomData<How>,
}

impl<P: Behaviour<How>, How> Instance for Configured<P, How> {
    fn process(&mut self, columns: &types::Batch) -> types::Outcome {
        let batch = Batch::new(columns);
        let mut out = Output::new(&batch, &columns.arena, self.last);
        self.plugin.run(&batch, &mut out);
        log::set_row(None);
        let (outcome, size) = out.finish();
        self.last = size;
        outcome
    }
}

pub(crate) fn instance<P: Behaviour<How>, How: 'static>(
    config: &str,
) -> Result<Box<dyn Instance>, ConfigError> {
    let plugin = P::new(config::parse(config)?)?;
    Ok(Box::new(Configured { plugin, last: SizeHint::default(), how: PhantomData::<How> }))
}

thread_local! {
    static INSTANCE: RefCell<Option<Box<dyn Instance>>> = const { RefCell::new(None) };
}

#[doc(hidden)]
pub fn describe<P: Behaviour<How>, How>(version: &str) -> types::Description {
    log_panics();
    let reads = [
        (P::READS.payload, types::Reads::PAYLOAD),
        (P::READS.key, types::Reads::KEY),
        (P::READS.headers, types::Reads::HEADERS),
        (P::READS.metadata, types::Reads::METADATA),
    ];
    types::Description {
        name: P::NAME.to_owned(),
        version: version.to_owned(),
        summary: P::SUMMARY.to_owned(),
        reads: reads
            .into_iter()
            .filter(|(reads, _)| *reads)
            .fold(types::Reads::empty(), |all, (_, column)| all | column),
        config_schema: schemars::schema_for!(P::Config).as_value().to_string(),
    }
}

#[doc(hidden)]
pub fn configure<P: Behaviour<How>, How: 'static>(config: &str) -> Result<(), types::ConfigError> {
    log_panics();
    match instance::<P, How>(config) {
        Ok(instance) => {
            INSTANCE.set(Some(instance));
            Ok(())
        }
        Err(ConfigError { field, message }) => Err(types::ConfigError { field, message }),
    }
}

#[doc(hidden)]
pub fn process(batch: types::Batch) -> types::Outcome {
    INSTANCE.with_borrow_mut(|instance| {
        instance.as_mut().expect("the host calls configure before process").process(&batch)
    })
}

/// A panic becomes a trap without a word; this logs what it says before.
fn log_panics() {
    static ONCE: Once = Once::new();
    if cfg!(target_arch = "wasm32") {
        ONCE.call_once(|| std::panic::set_hook(Box::new(|panic| log::error(panic))));
    }
}

/// Makes a plugin of a type that implements [`Plugin`](crate::Plugin) and one of
/// [`Filter`](crate::Filter), [`Map`](crate::Map) and [`Process`](crate::Process). Say it once in a
/// crate of type `cdylib`. Its version is that of the crate.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        const _: () = {
            struct Exported;

            impl $crate::bindings::exports::millstream::plugin::processor::Guest for Exported {
                fn describe() -> $crate::bindings::millstream::plugin::types::Description {
                    $crate::guest::describe::<$plugin, _>(env!("CARGO_PKG_VERSION"))
                }

                fn configure(
                    config: String,
                ) -> Result<(), $crate::bindings::millstream::plugin::types::ConfigError> {
                    $crate::guest::configure::<$plugin, _>(&config)
                }

                fn process(
                    batch: $crate::bindings::millstream::plugin::types::Batch,
                ) -> $crate::bindings::millstream::plugin::types::Outcome {
                    $crate::guest::process(batch)
                }
            }

            #[cfg(target_arch = "wasm32")]
    $crate::bindings::export!(Exported with_types_in $crate::bindings);
        };
    };
}
