//! Joins messages with a table that the host loads: the row with a message's key is put into its
//! payload.
//!
//! - [`target`]: where a row goes, in the text of a payload

mod target;

use std::borrow::Cow;
use std::collections::HashMap;

use millstream_sdk::NotGranted;
use millstream_sdk::key::{Key, KeyPlace};
use millstream_sdk::lookup::Found;
use millstream_sdk::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

use target::Target;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the table, which the pipeline grants: `grants.lookup.NAME = { file = "..." }`.
    table: String,
    /// Where the key of a message's row is found.
    key: Key,
    /// JSON pointer (RFC 6901) to where the row goes in the payload. What is there is replaced;
    /// objects on the way that are missing are made.
    target: String,
    /// The fields of the row that are taken, in this order; without it the whole row.
    fields: Option<Vec<String>>,
    /// What becomes of a message that has no key, whose key has no row, or whose payload is null.
    #[serde(default)]
    on_missing: OnMissing,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnMissing {
    /// It goes on unchanged.
    #[default]
    Pass,
    /// It goes to the dead letters with code `enrich-missing`.
    Reject,
    /// It is dropped.
    Drop,
}

pub struct Enrich {
    table: String,
    key: KeyPlace,
    target: Target,
    fields: Option<Vec<String>>,
    on_missing: OnMissing,
}

impl Plugin for Enrich {
    type Config = Config;
    const NAME: &'static str = "enrich";
    const SUMMARY: &'static str = "Puts the row of a table that has a message's key into its payload.";
    const READS: Reads = Reads::PAYLOAD.and(Reads::KEY).and(Reads::HEADERS);

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.table.is_empty() {
            return Err(ConfigError::at("/table", "name the table"));
        }
        let key = config.key.place("/key")?;
        if let Some(fields) = &config.fields {
            check_fields(fields)?;
        }
        let target = Target::new(&config.target).map_err(|what| ConfigError::at("/target", what))?;
        // Asks for nothing, only whether it may: better now than for each message.
        lookup::get_many::<&[u8]>(&config.table, &[])
            .map_err(|NotGranted(text)| ConfigError::at("/table", text))?;
        Ok(Enrich { table: config.table, key, target, fields: config.fields, on_missing: config.on_missing })
    }
}

impl Process for Enrich {
    fn process(&mut self, message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure> {
        let key = self.key_of(message)?;
        let rows = lookup::get_many(&self.table, key.as_slice())?;
        self.join(message, key.map(|_| 0), &rows, out)
    }

    fn process_batch(&mut self, batch: &Batch<'_>, out: &mut Output) {
        let mut keys = Vec::with_capacity(batch.len());
        // Of each message the number of its key, if it has one.
        let numbers: Vec<_> = batch
            .messages()
            .map(|message| {
                Ok(self.key_of(&message)?.map(|key| {
                    keys.push(key);
                    keys.len() - 1
                }))
            })
            .collect();
        let rows = lookup::get_many(&self.table, &keys);
        for (message, number) in batch.messages().zip(numbers) {
            let verdict = number.and_then(|number: Option<usize>| match &rows {
                Ok(rows) => self.join(&message, number, rows, out),
                Err(NotGranted(text)) => Err(NotGranted(text.clone()).into()),
            });
            out.settle(verdict);
        }
    }
}

impl Enrich {
    /// `None` if the message has no key, or a null payload, which no row can be put into.
    fn key_of<'a>(&self, message: &Message<'a>) -> Result<Option<Cow<'a, [u8]>>, Failure> {
        match message.payload() {
            None => Ok(None),
            Some(_) => self.key.find(message),
        }
    }

    fn join(
        &self,
        message: &Message<'_>,
        key: Option<usize>,
        rows: &Found,
        out: &mut Output,
    ) -> Result<Verdict, Failure> {
        let row = key.and_then(|key| rows.json_text(key));
        let (Some(payload), Some(row)) = (message.payload(), row) else {
            return self.missing(message, key.is_some());
        };
        let row = self.taken(row)?;
        let place = self.target.find(payload)?;
        let mut writer = out.emit().payload_writer();
        writer.push(&payload[..place.start]);
        writer.push(place.before.as_bytes());
        writer.push(&row);
        writer.push(place.after.as_bytes());
        writer.push(&payload[place.end..]);
        writer.done();
        Ok(Verdict::Emit)
    }

    /// What becomes of a message without a row.
    fn missing(&self, message: &Message<'_>, has_key: bool) -> Result<Verdict, Failure> {
        if message.payload().is_some() {
            // A key that is not in the payload says nothing of it, and only JSON is to pass.
            message.json::<&RawValue>()?;
        }
        let table = &self.table;
        match self.on_missing {
            OnMissing::Pass => Ok(Verdict::Pass),
            OnMissing::Drop => Ok(Verdict::Drop),
            OnMissing::Reject => {
                let why = match message.payload() {
                    None => format!("a null payload can take no row of table `{table}`"),
                    Some(_) if has_key => format!("table `{table}` has no row with its key"),
                    Some(_) => format!("no key to look up in table `{table}`"),
                };
                Err(Failure::reject("enrich-missing", why))
            }
        }
    }

    /// What of a row is taken, as JSON text.
    fn taken<'r>(&self, row: &'r [u8]) -> Result<Cow<'r, [u8]>, Failure> {
        let Some(fields) = &self.fields else { return Ok(Cow::Borrowed(row)) };
        let not_a_row = |error: serde_json::Error| {
            let table = &self.table;
            Failure::reject("lookup-row", format!("a row of table `{table}` is not an object: {error}"))
        };
        let row: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(row).map_err(not_a_row)?;
        let mut taken = b"{".to_vec();
        for name in fields {
            let Some(value) = row.get(name.as_str()) else { continue };
            if taken.len() > 1 {
                taken.push(b',');
            }
            serde_json::to_writer(&mut taken, name).map_err(not_a_row)?;
            taken.push(b':');
            taken.extend_from_slice(value.get().as_bytes());
        }
        taken.push(b'}');
        Ok(Cow::Owned(taken))
    }
}

fn check_fields(fields: &[String]) -> Result<(), ConfigError> {
    if fields.is_empty() {
        return Err(ConfigError::at("/fields", "name at least one, or remove this for the whole row"));
    }
    match (1..fields.len()).find(|&index| fields[..index].contains(&fields[index])) {
        Some(twice) => Err(ConfigError::at(
            format!("/fields/{twice}"),
            "stands in this list already; name each field once",
        )),
        None => Ok(()),
    }
}

millstream_sdk::export!(Enrich);

#[cfg(test)]
mod tests;
