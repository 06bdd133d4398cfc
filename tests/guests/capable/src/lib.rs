//! Does with the host whatever its messages say, and puts what came of it into their payloads.

use millstream_sdk::http::{self, Request};
use millstream_sdk::prelude::*;
use millstream_sdk::state::Entry;
use millstream_sdk::{clock, metrics, random};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Do {
    Clock,
    Random {
        count: u32,
    },
    Get {
        key: String,
    },
    Put {
        key: String,
        value: Option<String>,
    },
    Insert {
        key: String,
    },
    Http {
        #[serde(default = "get")]
        method: String,
        paths: Vec<String>,
    },
    Count {
        name: String,
    },
    Observe {
        name: String,
        value: f64,
    },
    /// Counts, puts, then fails.
    Panic,
}

fn get() -> String {
    "GET".to_owned()
}

pub struct Capable;

impl Plugin for Capable {
    type Config = NoConfig;
    const NAME: &'static str = "capable";
    const SUMMARY: &'static str = "Does with the host whatever its messages say.";

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Capable)
    }
}

impl Process for Capable {
    fn process(&mut self, message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure> {
        let row = message.row();
        let result: Value = match message.json()? {
            Do::Clock => json!(clock::now()?),
            Do::Random { count } => json!(random::bytes(count)?),
            Do::Get { key } => {
                json!(state::get_many("space", &[key])?.get(0).map(String::from_utf8_lossy))
            }
            Do::Put { key, value } => {
                let value = value.as_deref().map(str::as_bytes);
                state::put_many("space", &[Entry { row, key: key.as_bytes(), value }], 0)?;
                json!("put")
            }
            Do::Insert { key } => {
                let entry = Entry { row, key: key.as_bytes(), value: Some(b"inserted") };
                json!(state::insert_if_absent("space", &[entry], 0)?)
            }
            Do::Http { method, paths } => {
                let requests: Vec<Request> = paths
                    .into_iter()
                    .map(|path| Request { method: method.clone(), ..Request::get(path) })
                    .collect();
                let told = http::send_many("server", &requests)?.into_iter().map(|answer| match answer {
                    Ok(response) => json!([response.status, String::from_utf8_lossy(&response.body)]),
                    Err(error) => json!(format!("{error:?}")),
                });
                told.collect()
            }
            Do::Count { name } => {
                metrics::count(&name, 2)?;
                json!("counted")
            }
            Do::Observe { name, value } => {
                metrics::observe(&name, value)?;
                json!("observed")
            }
            Do::Panic => {
                metrics::count("panics", 1)?;
                state::put_many("space", &[Entry { row, key: b"panic", value: Some(b"") }], 0)?;
                panic!("as it was told");
            }
        };
        out.emit().payload_json(&result)?;
        Ok(Verdict::Emit)
    }
}

millstream_sdk::export!(Capable);
