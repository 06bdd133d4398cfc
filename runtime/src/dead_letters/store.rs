//! The embedded store: dead letters in the data folder.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use rusqlite::{Connection, Row, Transaction, params_from_iter};
use serde::{Deserialize, Serialize};

use super::filter::Filter;
use super::story::Settled;
use super::{DeadLetter, DeadLetterWriter, Stage};
use crate::message::{Message, Position};
use crate::plugin::PluginIdentity;
use crate::store::DataFolder;
use crate::store::database::Database;

/// A page ends with the row that makes it reach one of these: a million dead letters are never in
/// memory at once.
const PAGE_ROWS: usize = 256;
const PAGE_BYTES: usize = 4 << 20;

/// Rows deleted in one transaction; commits of the pipeline go in between.
const DELETE_ROWS: usize = 500;

/// The dead letters of a pipeline. Cloning shares it. Methods block on the disk.
#[derive(Clone)]
pub struct DeadLetterStore {
    database: Arc<Database>,
    retention: Duration,
    page_bytes: usize,
    /// Whose copy it is, if it is one.
    original: Option<Arc<dyn Original>>,
}

/// What a store is a copy of.
pub trait Original: Send + Sync {
    /// Marks dead letters that are none any more; durable when it returns. They are deleted in the copy
    /// after it. Blocks.
    fn settle(&self, settled: Vec<Settled>) -> anyhow::Result<()>;
}

/// Some dead letters, in the order in which they were given up first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Page {
    pub letters: Vec<DeadLetter>,
    /// Where the next page begins; `None` if this was the last.
    pub next: Option<Cursor>,
}

/// A place in the store: everything up to this number has been seen.
pub type Cursor = u64;

impl DeadLetterStore {
    /// The store of a data folder; dead letters older than `retention` may be purged.
    pub fn new(folder: &DataFolder, retention: Duration) -> DeadLetterStore {
        DeadLetterStore { database: folder.database(), retention, page_bytes: PAGE_BYTES, original: None }
    }

    /// This store as a copy of dead letters that are elsewhere. They come in the order in which they
    /// were given up; those that are settled go.
    pub fn as_copy(
        mut self,
        settled: &[Settled],
        original: Arc<dyn Original>,
    ) -> anyhow::Result<DeadLetterStore> {
        self.database.write(|transaction| {
            let mut statement = transaction.prepare_cached(
                "DELETE FROM dead_letters WHERE id = ?1 AND replays <= ?2 AND failed_at_ms <= ?3",
            )?;
            for Settled { id, replays, failed_at_ms, .. } in settled {
                statement.execute((id, replays, failed_at_ms))?;
            }
            // By way of negative numbers, for each must be unique all the time.
            transaction.execute_batch(
                "WITH ranked AS (SELECT seq AS old, row_number() OVER (
                     ORDER BY failed_at_ms, source, partition, position_offset, seq) AS new FROM dead_letters)
                 UPDATE dead_letters SET seq = -ranked.new FROM ranked WHERE dead_letters.seq = ranked.old;
                 UPDATE dead_letters SET seq = -seq;",
            )
        })?;
        self.original = Some(original);
        Ok(self)
    }

    /// Those that `filter` means, as they are to be marked where this is a copy of.
    fn settled(&self, filter: &Filter, end: Cursor) -> anyhow::Result<Vec<Settled>> {
        let (conditions, values) = filter.sql();
        let sql = format!(
            "SELECT id, key, replays, failed_at_ms FROM dead_letters
             WHERE seq <= {end}{conditions} ORDER BY seq"
        );
        let settled = |row: &Row<'_>| {
            let (id, key) = (row.get("id")?, row.get("key")?);
            Ok(Settled { id, key, replays: row.get("replays")?, failed_at_ms: row.get("failed_at_ms")? })
        };
        self.database.read(|connection| {
            connection.prepare(&sql)?.query_map(params_from_iter(values), settled)?.collect()
        })
    }

    fn settle_original(&self, filter: &Filter) -> anyhow::Result<()> {
        match &self.original {
            Some(original) => original.settle(self.settled(filter, self.end()?)?),
            None => Ok(()),
        }
    }

    /// How long a dead letter is kept.
    pub fn retention(&self) -> Duration {
        self.retention
    }

    /// Writes them in one transaction, durable when it returns. One whose id is there already takes
    /// its place; how often it was replayed never falls.
    pub fn insert(&self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        self.database.write(|transaction| letters.iter().try_for_each(|letter| insert(transaction, letter)))
    }

    /// How many there are. Counting a million takes some ten milliseconds.
    pub fn depth(&self) -> anyhow::Result<u64> {
        self.count(&Filter::default())
    }

    pub fn count(&self, filter: &Filter) -> anyhow::Result<u64> {
        let (conditions, values) = filter.sql();
        let sql = format!("SELECT count(*) FROM dead_letters WHERE TRUE{conditions}");
        let count: i64 =
            self.database.read(|c| c.query_row(&sql, params_from_iter(values), |row| row.get(0)))?;
        Ok(count as u64)
    }

    /// The last place of the store as it is now: what is written later lies beyond it.
    pub fn end(&self) -> anyhow::Result<Cursor> {
        let sql = "SELECT coalesce(max(seq), 0) FROM dead_letters";
        let end: i64 = self.database.read(|connection| connection.query_row(sql, [], |row| row.get(0)))?;
        Ok(end as u64)
    }

    /// The next ones that `filter` means, beyond `after` and up to `end`.
    pub fn page(&self, filter: &Filter, after: Cursor, end: Cursor) -> anyhow::Result<Page> {
        self.database.read(|connection| self.read_page(connection, filter, after, end))
    }

    fn read_page(
        &self,
        connection: &Connection,
        filter: &Filter,
        after: Cursor,
        end: Cursor,
    ) -> rusqlite::Result<Page> {
        let (conditions, values) = filter.sql();
        let sql = format!(
            "SELECT {COLUMNS} FROM dead_letters WHERE seq > {after} AND seq <= {end}{conditions} ORDER BY seq"
        );
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        let mut page = Page::default();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let letter = read_row(row)?;
            bytes += letter.message.payload.as_ref().map_or(0, Vec::len) + letter.reason.len();
            page.letters.push(letter);
            if page.letters.len() == PAGE_ROWS || bytes >= self.page_bytes {
                page.next = Some(row.get::<_, i64>("seq")? as u64);
                break;
            }
        }
        Ok(page)
    }

    /// Names of the sources that those meant by `filter` were read from.
    pub fn sources(&self, filter: &Filter, end: Cursor) -> anyhow::Result<Vec<String>> {
        let (conditions, values) = filter.sql();
        let sql = format!(
            "SELECT DISTINCT source FROM dead_letters WHERE seq <= {end}{conditions} ORDER BY source"
        );
        self.database.read(|connection| {
            connection.prepare(&sql)?.query_map(params_from_iter(values), |row| row.get(0))?.collect()
        })
    }

    /// Deletes those that `filter` means and that are there now; returns how many.
    pub fn purge(&self, filter: &Filter) -> anyhow::Result<u64> {
        self.settle_original(filter)?;
        let end = self.end()?;
        let (conditions, values) = filter.sql();
        let mut after = 0;
        self.delete_some(|transaction| {
            let sql = format!(
                "DELETE FROM dead_letters WHERE seq IN (
                    SELECT seq FROM dead_letters WHERE seq > {after} AND seq <= {end}{conditions}
                    ORDER BY seq LIMIT {DELETE_ROWS})
                 RETURNING seq"
            );
            let mut statement = transaction.prepare(&sql)?;
            let deleted: Vec<i64> = statement
                .query_map(params_from_iter(&values), |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            after = deleted.iter().copied().max().unwrap_or(after);
            Ok(deleted.len())
        })
    }

    /// Deletes those that are older than the retention; returns how many. Cheap if there are none.
    pub fn purge_expired(&self, now_ms: i64) -> anyhow::Result<u64> {
        let retention_ms = i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX);
        let until_ms = now_ms.saturating_sub(retention_ms);
        self.delete_some(|transaction| {
            // By the index over the time: this is called again and again.
            let sql = format!(
                "DELETE FROM dead_letters WHERE seq IN (
                    SELECT seq FROM dead_letters INDEXED BY dead_letters_by_time WHERE failed_at_ms < ?1
                    ORDER BY failed_at_ms LIMIT {DELETE_ROWS})"
            );
            transaction.prepare_cached(&sql)?.execute([until_ms])
        })
    }

    /// Calls `delete` in a transaction of its own until it deletes nothing.
    fn delete_some(
        &self,
        mut delete: impl FnMut(&Transaction<'_>) -> rusqlite::Result<usize>,
    ) -> anyhow::Result<u64> {
        let mut total = 0;
        loop {
            let deleted = self.database.write(&mut delete)?;
            if deleted == 0 {
                return Ok(total);
            }
            total += deleted as u64;
            self.database.shrink()?;
        }
    }

    /// Deletes those whose replay is settled, all or none; durable when it returns. `replays` is how
    /// often one had been replayed when it was read: if the replay failed as the message did before,
    /// the store already holds the new one under the same id with a higher number, and it stays.
    pub fn settle_replayed(&self, replayed: &[(String, u32)]) -> anyhow::Result<()> {
        if !replayed.is_empty() {
            let ids = replayed.iter().map(|(id, _)| id.clone()).collect();
            self.settle_original(&Filter { ids, ..Filter::default() })?;
        }
        self.database.write(|transaction| {
            let mut statement =
                transaction.prepare_cached("DELETE FROM dead_letters WHERE id = ?1 AND replays <= ?2")?;
            replayed.iter().try_for_each(|(id, replays)| statement.execute((id, replays)).map(drop))
        })
    }
}

#[async_trait]
impl DeadLetterWriter for DeadLetterStore {
    async fn write(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        let (store, letters) = (self.clone(), letters.to_vec());
        tokio::task::spawn_blocking(move || store.insert(&letters))
            .await
            .context("writing dead letters was cut off")?
    }
}

const COLUMNS: &str = "seq, id, pipeline, source, partition, position_offset, record, position, stage, \
    plugin_step, plugin_name, plugin_version, plugin_sha256, code, trap, attempts, read_at_ms, failed_at_ms, \
    trace_id, replays, sinks, timestamp_ms, reason, key, headers, payload";

fn insert(transaction: &Transaction<'_>, letter: &DeadLetter) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO dead_letters (id, pipeline, source, partition, position_offset, record, position, stage,
            plugin_step, plugin_name, plugin_version, plugin_sha256, code, trap, attempts, read_at_ms,
            failed_at_ms, trace_id, replays, sinks, timestamp_ms, reason, key, headers, payload)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
            ?21, ?22, ?23, ?24, ?25)
         ON CONFLICT (id) DO UPDATE SET pipeline = excluded.pipeline, source = excluded.source,
            partition = excluded.partition, position_offset = excluded.position_offset,
            record = excluded.record, position = excluded.position, stage = excluded.stage,
            plugin_step = excluded.plugin_step, plugin_name = excluded.plugin_name,
            plugin_version = excluded.plugin_version, plugin_sha256 = excluded.plugin_sha256,
            code = excluded.code, trap = excluded.trap, attempts = excluded.attempts,
            read_at_ms = excluded.read_at_ms, failed_at_ms = excluded.failed_at_ms,
            trace_id = excluded.trace_id, replays = max(replays, excluded.replays), sinks = excluded.sinks,
            timestamp_ms = excluded.timestamp_ms, reason = excluded.reason, key = excluded.key,
            headers = excluded.headers, payload = excluded.payload",
    )?;
    let plugin = letter.plugin.as_ref();
    let json = |value: serde_json::Value| value.to_string();
    statement.execute(rusqlite::params![
        letter.id,
        letter.pipeline,
        letter.source,
        letter.position.partition,
        // SQLite counts in i64; the bits come back as they were.
        letter.position.offset as i64,
        letter.position.record as i64,
        letter.position_text,
        letter.stage.to_string(),
        plugin.map(|plugin| &plugin.step),
        plugin.map(|plugin| &plugin.name),
        plugin.map(|plugin| &plugin.version),
        plugin.map(|plugin| &plugin.sha256),
        letter.code,
        letter.trap,
        letter.attempts,
        letter.read_at_ms,
        letter.failed_at_ms,
        letter.trace_id,
        letter.replays,
        json(letter.sinks.clone().into()),
        letter.message.timestamp_ms,
        letter.reason,
        letter.message.key,
        headers_to_json(&letter.message.headers),
        letter.message.payload,
    ])?;
    Ok(())
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let plugin = match row.get::<_, Option<String>>("plugin_step")? {
        Some(step) => Some(PluginIdentity {
            step,
            name: row.get("plugin_name")?,
            version: row.get("plugin_version")?,
            sha256: row.get("plugin_sha256")?,
        }),
        None => None,
    };
    Ok(DeadLetter {
        id: row.get("id")?,
        pipeline: row.get("pipeline")?,
        source: row.get("source")?,
        position: Position {
            partition: row.get("partition")?,
            offset: row.get::<_, i64>("position_offset")? as u64,
            record: row.get::<_, i64>("record")? as u64,
        },
        position_text: row.get("position")?,
        stage: parsed(row, "stage", |text| text.parse::<Stage>().map_err(Into::into))?,
        plugin,
        code: row.get("code")?,
        reason: row.get("reason")?,
        trap: row.get("trap")?,
        attempts: row.get("attempts")?,
        read_at_ms: row.get("read_at_ms")?,
        failed_at_ms: row.get("failed_at_ms")?,
        trace_id: row.get("trace_id")?,
        replays: row.get("replays")?,
        sinks: parsed(row, "sinks", |text| Ok(serde_json::from_str(text)?))?,
        message: Message {
            payload: row.get("payload")?,
            key: row.get("key")?,
            headers: parsed(row, "headers", headers_from_json)?,
            timestamp_ms: row.get("timestamp_ms")?,
        },
    })
}

type ColumnError = Box<dyn std::error::Error + Send + Sync>;

fn parsed<T>(
    row: &Row<'_>,
    column: &'static str,
    parse: impl FnOnce(&str) -> Result<T, ColumnError>,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    parse(&text).map_err(|error| {
        let index = row.as_ref().column_index(column).unwrap_or_default();
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, error)
    })
}

/// Pairs of name and value, bytes that are not UTF-8 as `{"hex": "..."}`.
fn headers_to_json(headers: &[(Vec<u8>, Vec<u8>)]) -> String {
    let text = |bytes: &[u8]| match str::from_utf8(bytes) {
        Ok(text) => serde_json::Value::from(text),
        Err(_) => serde_json::json!({ "hex": hex::encode(bytes) }),
    };
    headers.iter().map(|(name, value)| [text(name), text(value)]).collect::<serde_json::Value>().to_string()
}

fn headers_from_json(json: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ColumnError> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Text(String),
        Bytes { hex: String },
    }
    let bytes = |stored: Stored| match stored {
        Stored::Text(text) => Ok(text.into_bytes()),
        Stored::Bytes { hex } => hex::decode(hex),
    };
    let pairs: Vec<(Stored, Stored)> = serde_json::from_str(json)?;
    pairs.into_iter().map(|(name, value)| Ok((bytes(name)?, bytes(value)?))).collect()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
