//! Messages of a test.

use serde::Serialize;
use serde_json::{Value, json};

/// A message that owns its bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// `None`: a null payload.
    pub payload: Option<Vec<u8>>,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    /// Event time, milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp_ms: i64,
    /// Routes that a plugin named.
    pub routes: Vec<String>,
}

impl Record {
    pub fn new(payload: impl Into<Vec<u8>>) -> Record {
        Record { payload: Some(payload.into()), ..Record::default() }
    }

    pub fn text(payload: &str) -> Record {
        Record::new(payload)
    }

    /// # Panics
    /// If `payload` cannot be JSON.
    pub fn json(payload: impl Serialize) -> Record {
        Record::new(serde_json::to_vec(&payload).expect("a payload that json can hold"))
    }

    pub fn null() -> Record {
        Record::default()
    }

    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Record {
        self.key = Some(key.into());
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Record {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn timestamp_ms(mut self, timestamp: i64) -> Record {
        self.timestamp_ms = timestamp;
        self
    }

    pub fn route(mut self, name: &str) -> Record {
        self.routes.push(name.to_owned());
        self
    }

    /// The payload as JSON.
    ///
    /// # Panics
    /// If it is null or not JSON.
    pub fn payload_json(&self) -> Value {
        serde_json::from_slice(self.payload.as_deref().expect("a payload")).expect("a json payload")
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (name, text(value))).collect();
        f.debug_struct("Record")
            .field("payload", &self.payload.as_ref().map(text))
            .field("key", &self.key.as_ref().map(text))
            .field("headers", &json!(headers).to_string())
            .field("timestamp_ms", &self.timestamp_ms)
            .field("routes", &self.routes)
            .finish()
    }
}
