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
    now_ms: u64,
    partition: u32,
    offset: u64,
    tables: host::Tables,
    logs: Vec<Logged>,
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
            now_ms: 1_700_000_000_000,
            partition: 0,
            offset: 0,
            tables: host::Tables::default(),
            logs: Vec::new(),
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
        self.tables.insert(name.to_owned(), rows.collect());
        self
    }

    /// Names the source; without this it is `test`.
    pub fn source(mut self, name: &str) -> Harness {
        self.source = name.to_owned();
        self
    }

    /// Sets the wall-clock time of the next calls, milliseconds since 1970-01-01T00:00:00Z.
    pub fn now_ms(mut self, now: u64) -> Harness {
        self.now_ms = now;
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
        let tables = std::mem::take(&mut self.tables);
        let (outcome, tables, logs) = host::with(tables, || self.instance.process(&batch));
        self.tables = tables;
        self.logs.extend(logs);
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
        std::mem::take(&mut self.logs)
    }
}
