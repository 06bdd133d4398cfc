//! Unit tests of a plugin, natively: messages go through the same columns as in the sandbox, and
//! what comes back is checked as the host checks it.
//!
//! ```
//! # use millstream_sdk::prelude::*;
//! # struct Upper;
//! # impl Plugin for Upper {
//! #     type Config = NoConfig;
//! #     const NAME: &'static str = "upper";
//! #     const SUMMARY: &'static str = "Upper case.";
//! #     fn new(_: NoConfig) -> Result<Self, ConfigError> { Ok(Upper) }
//! # }
//! # impl Map for Upper {
//! #     fn map(&mut self, message: &Message<'_>) -> Result<impl serde::Serialize, Failure> {
//! #         Ok(message.text()?.to_uppercase())
//! #     }
//! # }
//! use millstream_sdk::testing::{Harness, Outcome, Record};
//! use serde_json::json;
//!
//! let mut plugin = Harness::new::<Upper, _>(json!({})).unwrap();
//! let outcomes = plugin.run(&[Record::text("abc").key("k"), Record::null()]);
//! assert_eq!(outcomes[0], Outcome::Emit(vec![Record::json(json!("ABC")).key("k")]));
//! assert_eq!(outcomes[1].code(), Some("payload-null"));
//! ```

mod columns;
mod fixtures;
pub(crate) mod host;
mod record;

use serde::Serialize;
use serde_json::{Value, json};

use crate::bindings::millstream::plugin::types;
use crate::config::ConfigError;
use crate::guest::{self, Behaviour, Instance};
use crate::plugin::Reads;

pub use crate::bindings::millstream::plugin::http::{Request, RequestError, Response};
pub use crate::metrics::Point;
pub use columns::ContractError;
pub use fixtures::check_fixtures;
pub use host::Logged;
pub use record::Record;

/// A plugin under test.
pub struct Harness {
    instance: Box<dyn Instance>,
    description: types::Description,
    reads: Reads,
    source: String,
    partition: u32,
    offset: u64,
    host: host::Host,
}

/// What became of a message.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    Pass,
    Drop,
    /// The messages in place of it, with all that they have from it.
    Emit(Vec<Record>),
    Reject {
        code: String,
        text: String,
    },
    Retry {
        code: String,
        text: String,
    },
}

impl Outcome {
    /// The code of a rejection or a retry.
    pub fn code(&self) -> Option<&str> {
        match self {
            Outcome::Reject { code, .. } | Outcome::Retry { code, .. } => Some(code),
            _ => None,
        }
    }

    /// What goes on from `record`: itself, what takes its place, or nothing.
    pub fn messages(&self, record: &Record) -> Vec<Record> {
        match self {
            Outcome::Pass => vec![record.clone()],
            Outcome::Emit(records) => records.clone(),
            Outcome::Drop | Outcome::Reject { .. } | Outcome::Retry { .. } => Vec::new(),
        }
    }
}

impl Harness {
    /// Configures a plugin: `Harness::new::<MyPlugin, _>(json!({ ... }))`.
    pub fn new<P: Behaviour<How>, How: 'static>(config: Value) -> Result<Harness, ConfigError> {
        Ok(Harness {
            instance: guest::instance::<P, How>(&config.to_string())?,
            description: guest::describe::<P, How>("0.0.0"),
            reads: P::READS,
            source: "test".to_owned(),
            partition: 0,
            offset: 0,
            host: host::Host { now_ms: 1_700_000_000_000, ..host::Host::default() },
        })
    }

    /// The JSON Schema of the configuration, as the host gets it.
    ///
    /// # Panics
    /// If it is not JSON.
    pub fn config_schema(&self) -> Value {
        serde_json::from_str(&self.description.config_schema).expect("a schema is json")
    }

    /// Grants a table for look-ups, with these rows by their keys.
    pub fn table<K: Into<Vec<u8>>, V: Serialize>(
        mut self,
        name: &str,
        rows: impl IntoIterator<Item = (K, V)>,
    ) -> Harness {
        let rows = rows.into_iter().map(|(key, row)| (key.into(), json!(row).to_string().into_bytes()));
        self.host.tables.insert(name.to_owned(), rows.collect());
        self
    }

    /// Grants a space of state, which is empty.
    pub fn state(mut self, name: &str) -> Harness {
        self.host.spaces.insert(name.to_owned(), host::state::Space::default());
        self
    }

    /// Grants a server, whose answers are those of `answer`.
    pub fn server(
        mut self,
        name: &str,
        answer: impl FnMut(&Request) -> Result<Response, RequestError> + 'static,
    ) -> Harness {
        self.host.servers.insert(name.to_owned(), Box::new(answer));
        self
    }

    /// Grants the clock, which stands at the time of the batch.
    pub fn clock(mut self) -> Harness {
        self.host.has_clock = true;
        self
    }

    /// Grants random bytes, which are the same in each test.
    pub fn random(mut self) -> Harness {
        self.host.has_random = true;
        self
    }

    /// Grants metrics of its own.
    pub fn metrics(mut self) -> Harness {
        self.host.has_metrics = true;
        self
    }

    /// Names the source; without this it is `test`.
    pub fn source(mut self, name: &str) -> Harness {
        self.source = name.to_owned();
        self
    }

    /// Sets the wall-clock time of the next calls, milliseconds since 1970-01-01T00:00:00Z.
    pub fn now_ms(mut self, now: u64) -> Harness {
        self.host.now_ms = now;
        self
    }

    /// Sets the position of the next message; without this it is partition 0, offset 0. The offset
    /// grows by one with each.
    pub fn at(mut self, partition: u32, offset: u64) -> Harness {
        self.partition = partition;
        self.offset = offset;
        self
    }

    /// Gives these to the plugin as one batch; one outcome for each.
    ///
    /// # Panics
    /// If the plugin panics or its result breaks the contract, which the host would hold against
    /// the message.
    pub fn run(&mut self, records: &[Record]) -> Vec<Outcome> {
        let batch = columns::encode(self, records);
        self.offset += records.len() as u64;
        let host = std::mem::take(&mut self.host);
        let (outcome, host) = host::with(host, || self.instance.process(&batch));
        self.host = host;
        match columns::decode(records, &batch, &outcome) {
            Ok(outcomes) => outcomes,
            Err(error) => panic!("the plugin breaks the contract: {error}"),
        }
    }

    /// Gives one message to the plugin.
    pub fn run_one(&mut self, record: Record) -> Outcome {
        self.run(&[record]).remove(0)
    }

    /// What the plugin has logged since the last call of this.
    pub fn logs(&mut self) -> Vec<Logged> {
        std::mem::take(&mut self.host.logs)
    }

    /// What the plugin has counted and observed since the last call of this.
    pub fn points(&mut self) -> Vec<Point> {
        std::mem::take(&mut self.host.points)
    }
}
