//! Tables that the host loads, reloads and grants by name. Natively they are those of
//! [`testing::Harness::table`](crate::testing::Harness::table).

use serde::Deserialize;

use crate::NotGranted;
use crate::bindings::millstream::plugin::lookup as host;
use crate::plugin::Failure;
use crate::spans;

/// Looks up many keys in one call to the host, which costs far less than a call for each.
pub fn get_many<K: AsRef<[u8]>>(table: &str, keys: &[K]) -> Result<Found, NotGranted> {
    let (arena, spans) = spans::of_keys(keys);
    match from_host(table, &arena, &spans) {
        Ok(values) => Ok(Found { values }),
        Err(host::LookupError::NotGranted(text)) => Err(NotGranted(text)),
    }
}

/// The rows found, one a key, in the order of the keys.
pub struct Found {
    values: host::Values,
}

impl Found {
    /// Number of keys that were looked up.
    pub fn len(&self) -> usize {
        self.values.found.len() / 2
    }

    pub fn is_empty(&self) -> bool {
        self.values.found.is_empty()
    }

    /// The row of the key at `index` as JSON text; `None` if the table has none.
    pub fn json_text(&self, index: usize) -> Option<&[u8]> {
        spans::bytes(&self.values.arena, &self.values.found, index)
    }

    /// The row of the key at `index`; `None` if the table has none.
    ///
    /// # Errors
    /// Rejects with `lookup-row` what is not of this shape.
    pub fn get<'a, T: Deserialize<'a>>(&'a self, index: usize) -> Result<Option<T>, Failure> {
        let Some(text) = self.json_text(index) else { return Ok(None) };
        serde_json::from_slice(text).map(Some).map_err(|error| {
            Failure::reject("lookup-row", format!("the row that was found is not as expected: {error}"))
        })
    }
}

#[cfg(target_arch = "wasm32")]
fn from_host(table: &str, arena: &[u8], keys: &[u32]) -> Result<host::Values, host::LookupError> {
    host::get_many(table, arena, keys)
}

#[cfg(not(target_arch = "wasm32"))]
fn from_host(table: &str, arena: &[u8], keys: &[u32]) -> Result<host::Values, host::LookupError> {
    crate::testing::host::get_many(table, arena, keys)
}
