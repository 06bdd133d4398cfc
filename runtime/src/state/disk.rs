//! The final part of the state, in the database of the data folder.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use rusqlite::{Connection, OptionalExtension, Transaction};

use super::Owner;
use crate::store::database::Database;

/// Expired rows that are deleted at once, so that a commit need not wait for long.
const PURGE_ROWS: i64 = 2000;

pub struct Disk {
    database: Arc<Database>,
    /// Of its own, so that a long look at the dead letters holds up no plugin.
    reader: Mutex<Connection>,
    /// Numbers of the spaces that are there.
    spaces: Mutex<HashMap<Arc<str>, i64>>,
}

/// A value as it is on the disk.
#[derive(Clone, Debug)]
pub struct Stored {
    pub value: Vec<u8>,
    pub owner: Owner,
}

/// What is to be on the disk.
pub struct Write {
    pub space: Arc<str>,
    pub key: Arc<[u8]>,
    /// `None` removes the key.
    pub value: Option<Arc<[u8]>>,
    pub expires_at_ms: i64,
    pub owner: Owner,
}

impl Disk {
    pub fn open(database: Arc<Database>) -> anyhow::Result<Disk> {
        let reader = database.reading_connection()?;
        Ok(Disk { database, reader: Mutex::new(reader), spaces: Mutex::default() })
    }

    /// Makes a space if it is not there. The bytes of keys and values that it has, unless it was open.
    pub fn open_space(&self, name: &Arc<str>) -> anyhow::Result<Option<u64>> {
        if lock(&self.spaces).contains_key(name) {
            return Ok(None);
        }
        let (id, bytes): (i64, i64) = self.database.write(|transaction| {
            transaction
                .execute("INSERT INTO state_spaces (name) VALUES (?1) ON CONFLICT DO NOTHING", [&**name])?;
            transaction.query_row("SELECT id, bytes FROM state_spaces WHERE name = ?1", [&**name], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
        })?;
        lock(&self.spaces).insert(Arc::clone(name), id);
        Ok(Some(bytes.unsigned_abs()))
    }

    /// What is there of these keys and has not expired.
    pub fn read<'k>(
        &self,
        space: &str,
        keys: impl Iterator<Item = &'k [u8]>,
        now_ms: i64,
    ) -> anyhow::Result<Vec<Option<Stored>>> {
        let id = lock(&self.spaces).get(space).copied();
        let connection = lock(&self.reader);
        Disk::find(&connection, id, keys, now_ms).context("reading from the database of the data folder")
    }

    fn find<'k>(
        connection: &Connection,
        id: Option<i64>,
        keys: impl Iterator<Item = &'k [u8]>,
        now_ms: i64,
    ) -> rusqlite::Result<Vec<Option<Stored>>> {
        let mut statement = connection.prepare_cached(
            "SELECT value, partition, position_offset, epoch FROM state
             WHERE space = ?1 AND key = ?2 AND expires_at_ms > ?3",
        )?;
        keys.map(|key| {
            statement
                .query_row((id, key, now_ms), |row| {
                    let owner = Owner {
                        partition: row.get(1)?,
                        offset: row.get::<_, i64>(2)?.cast_unsigned(),
                        epoch: row.get(3)?,
                    };
                    Ok(Stored { value: row.get(0)?, owner })
                })
                .optional()
        })
        .collect()
    }

    /// Writes all, durable when it returns; removes some of what has expired. Returns the bytes that
    /// each space has then.
    pub fn write(&self, writes: &[(u64, Write)], now_ms: i64) -> anyhow::Result<Vec<(Arc<str>, u64)>> {
        let spaces = lock(&self.spaces).clone();
        self.database.write(|transaction| {
            let mut put = transaction.prepare_cached(
                "INSERT INTO state (space, key, value, expires_at_ms, partition, position_offset, epoch)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (space, key) DO UPDATE SET value = excluded.value,
                 expires_at_ms = excluded.expires_at_ms, partition = excluded.partition,
                 position_offset = excluded.position_offset, epoch = excluded.epoch",
            )?;
            let mut remove = transaction.prepare_cached("DELETE FROM state WHERE space = ?1 AND key = ?2")?;
            for (_, Write { space, key, value, expires_at_ms, owner }) in writes {
                let id = spaces.get(space).copied();
                let Owner { partition, offset, epoch } = owner;
                match value {
                    Some(value) => {
                        let offset = offset.cast_signed();
                        put.execute((id, &**key, &**value, expires_at_ms, partition, offset, epoch))?
                    }
                    None => remove.execute((id, &**key))?,
                };
            }
            purge(transaction, now_ms)?;
            sizes(transaction)
        })
    }

    /// Removes some of what has expired. Returns how many entries, and the bytes that each space has
    /// then.
    pub fn purge(&self, now_ms: i64) -> anyhow::Result<(usize, Vec<(Arc<str>, u64)>)> {
        self.database.write(|transaction| Ok((purge(transaction, now_ms)?, sizes(transaction)?)))
    }
}

fn purge(transaction: &Transaction<'_>, now_ms: i64) -> rusqlite::Result<usize> {
    let expired: Vec<(i64, Vec<u8>)> = transaction
        .prepare_cached("SELECT space, key FROM state WHERE expires_at_ms <= ?1 LIMIT ?2")?
        .query_map((now_ms, PURGE_ROWS), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    // Each by itself: SQLite would look through the whole space for a list of them.
    let mut remove = transaction.prepare_cached("DELETE FROM state WHERE space = ?1 AND key = ?2")?;
    for row in &expired {
        remove.execute((row.0, &row.1))?;
    }
    Ok(expired.len())
}

fn sizes(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<(Arc<str>, u64)>> {
    let size =
        |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?.into(), row.get::<_, i64>(1)?.unsigned_abs()));
    transaction.prepare_cached("SELECT name, bytes FROM state_spaces")?.query_map([], size)?.collect()
}

/// A panic leaves nothing half done there.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
