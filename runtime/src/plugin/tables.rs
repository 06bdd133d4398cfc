//! Tables for `lookup`: loaded when the plugin is, and again when their file changes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;

use super::LookupTable;
use super::capabilities::{line_to_add, quoted};
use crate::config::problem::Problem;
use crate::config::units::ByteSize;
use crate::stamp::Stamp;

/// Largest file of a table, which is held in memory whole.
const MAX_FILE: ByteSize = ByteSize::mib(256);

/// The rows of one table by key, as JSON text.
#[derive(Debug)]
pub(super) struct Rows {
    text: Vec<u8>,
    by_key: HashMap<Box<[u8]>, (u32, u32)>,
}

impl Rows {
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (start, len) = *self.by_key.get(key)?;
        self.text.get(start as usize..start as usize + len as usize)
    }
}

/// The tables that a plugin may use, as they are for one batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Granted(BTreeMap<String, Arc<Rows>>);

impl Granted {
    pub fn rows(&self, table: &str) -> Option<&Arc<Rows>> {
        self.0.get(table)
    }

    /// What a pipeline lacks for this table.
    pub fn line_to_add(&self, table: &str) -> String {
        let key = quoted(table);
        let file = if key == table { table } else { "table" };
        let line = format!("grants.lookup.{key} = {{ file = \"{file}.csv\", key = \"id\" }}");
        line_to_add(&format!("the table {table:?} is"), &line)
    }
}

/// The tables granted to a plugin, kept fresh.
#[derive(Debug, Default)]
pub(super) struct Tables {
    granted: Mutex<Arc<Granted>>,
    watched: Mutex<Vec<Watched>>,
}

#[derive(Debug)]
struct Watched {
    name: String,
    table: LookupTable,
    /// What the file looked like when it was last read.
    stamp: Option<Stamp>,
    look_at: Instant,
}

/// Shortest time between two looks at a file.
const MIN_RELOAD: Duration = Duration::from_millis(100);

impl Tables {
    /// # Errors
    /// Each table that cannot be loaded, its place within the `[[plugin]]`.
    pub fn load(specs: &BTreeMap<String, LookupTable>) -> Result<Arc<Tables>, Vec<Problem>> {
        let (mut granted, mut watched, mut problems) = (Granted::default(), Vec::new(), Vec::new());
        for (name, table) in specs {
            let stamp = Stamp::of(&table.file);
            match load(table) {
                Ok(rows) => {
                    granted.0.insert(name.clone(), Arc::new(rows));
                    watched.push(Watched {
                        name: name.clone(),
                        table: table.clone(),
                        stamp,
                        look_at: next_look(table),
                    });
                }
                Err(message) => problems.push(Problem::new(format!("/grants/lookup/{name}/file"), message)),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Arc::new(Tables { granted: Mutex::new(Arc::new(granted)), watched: Mutex::new(watched) }))
    }

    /// The tables for the next batch. A file that has changed is read by a thread of its own, and
    /// is there for a later batch.
    pub fn current(self: &Arc<Tables>) -> Arc<Granted> {
        self.reload_changed();
        Arc::clone(&lock(&self.granted))
    }

    fn reload_changed(self: &Arc<Tables>) {
        let now = Instant::now();
        for watched in lock(&self.watched).iter_mut().filter(|watched| watched.look_at <= now) {
            watched.look_at = next_look(&watched.table);
            let stamp = Stamp::of(&watched.table.file);
            if stamp.is_none() || stamp == watched.stamp {
                continue;
            }
            watched.stamp = stamp;
            let (tables, name, table) = (Arc::clone(self), watched.name.clone(), watched.table.clone());
            let reload = move || match load(&table) {
                Ok(rows) => {
                    tracing::info!(table = name, file = %table.file.display(), "loaded a changed table");
                    let mut granted = lock(&tables.granted);
                    Arc::make_mut(&mut granted).0.insert(name, Arc::new(rows));
                }
                Err(error) => {
                    tracing::warn!(table = name, error, "a changed table is not used, the old one stays");
                }
            };
            if let Err(error) = std::thread::Builder::new().name("table-reload".into()).spawn(reload) {
                tracing::warn!(%error, "no thread could be started to load a changed table");
                watched.stamp = None;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is whole at any time.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn next_look(table: &LookupTable) -> Instant {
    Instant::now() + table.reload.0.max(MIN_RELOAD)
}

/// Collects rows and says where one is wrong.
struct Loading<'t> {
    table: &'t LookupTable,
    rows: Rows,
    /// Line of each key, for those that stand twice.
    lines: HashMap<Box<[u8]>, u64>,
}

fn load(table: &LookupTable) -> Result<Rows, String> {
    let shown = table.file.display();
    let mut text = Vec::new();
    File::open(&table.file)
        .and_then(|file| file.take(MAX_FILE.0 + 1).read_to_end(&mut text))
        .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    if text.len() as u64 > MAX_FILE.0 {
        return Err(format!("{shown} is larger than {MAX_FILE}, the most that a table may be"));
    }
    let mut loading =
        Loading { table, rows: Rows { text: Vec::new(), by_key: HashMap::new() }, lines: HashMap::new() };
    match table.file.extension().and_then(|ending| ending.to_str()) {
        Some("csv") => loading.csv(&text),
        Some("json") => loading.json(&text),
        Some("ndjson") => loading.ndjson(&text),
        _ => Err("has no ending that tells what it holds; name it .csv, .json or .ndjson".into()),
    }
    .map_err(|error| format!("{shown}: {error}"))?;
    loading.rows.text.shrink_to_fit();
    Ok(loading.rows)
}

impl Loading<'_> {
    fn csv(&mut self, text: &[u8]) -> Result<(), String> {
        let mut reader = csv::ReaderBuilder::new().from_reader(text);
        let head = reader.headers().map_err(csv_error)?.clone();
        let column = head.iter().position(|name| name == self.table.key).ok_or_else(|| {
            let names: Vec<&str> = head.iter().collect();
            format!("line 1: has no column {:?}, only {}", self.table.key, names.join(", "))
        })?;
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(csv_error)? {
            let line = record.position().map_or(0, csv::Position::line);
            let row: serde_json::Map<String, Value> =
                head.iter().zip(&record).map(|(name, value)| (name.to_owned(), value.into())).collect();
            let key = record.get(column).unwrap_or_default();
            self.add(key.as_bytes(), Value::Object(row).to_string().as_bytes(), line)?;
        }
        Ok(())
    }

    fn ndjson(&mut self, text: &[u8]) -> Result<(), String> {
        for (line, text) in (1..).zip(text.split(|&byte| byte == b'\n')) {
            if !text.trim_ascii().is_empty() {
                self.add_json(text.trim_ascii(), line)?;
            }
        }
        Ok(())
    }

    fn json(&mut self, text: &[u8]) -> Result<(), String> {
        let rows: Vec<&RawValue> = serde_json::from_slice(text).map_err(|error| {
            let what =
                if error.is_data() { "is no array of objects".to_owned() } else { without_place(&error) };
            format!("line {}: {what}", error.line())
        })?;
        let (mut line, mut counted) = (1, 0);
        for row in rows {
            // A row is a slice of the text.
            let start = row.get().as_ptr() as usize - text.as_ptr() as usize;
            line += text[counted..start].iter().filter(|&&byte| byte == b'\n').count() as u64;
            counted = start;
            self.add_json(row.get().as_bytes(), line)?;
        }
        Ok(())
    }

    /// A row keeps its text, so that no number loses digits on the way.
    fn add_json(&mut self, text: &[u8], line: u64) -> Result<(), String> {
        let fields: HashMap<String, &RawValue> = serde_json::from_slice(text).map_err(|error| {
            let what = if error.is_data() { "is no object".to_owned() } else { without_place(&error) };
            format!("line {}: {what}", line + error.line() as u64 - 1)
        })?;
        let name = &self.table.key;
        let Some(key) = fields.get(name) else { return Err(format!("line {line}: has no field {name:?}")) };
        let key = match key.get().as_bytes().first() {
            Some(b'"') => serde_json::from_str(key.get())
                .map_err(|error| format!("line {line}: {name:?}: {}", without_place(&error)))?,
            Some(b'{' | b'[' | b'n') | None => {
                return Err(format!("line {line}: {name:?} is no string or number"));
            }
            Some(_) => key.get().to_owned(),
        };
        self.add(key.as_bytes(), &on_one_line(text), line)
    }

    fn add(&mut self, key: &[u8], row: &[u8], line: u64) -> Result<(), String> {
        if let Some(first) = self.lines.insert(key.into(), line) {
            let key = String::from_utf8_lossy(key);
            return Err(format!("line {line}: the key {key:?} stands in line {first} already"));
        }
        let start = self.rows.text.len();
        self.rows.text.extend_from_slice(row);
        let start = u32::try_from(start).ok().filter(|_| self.rows.text.len() <= u32::MAX as usize);
        let start = start.ok_or_else(|| format!("line {line}: as JSON the table is larger than 4GiB"))?;
        self.rows.by_key.insert(key.into(), (start, row.len() as u32));
        Ok(())
    }
}

fn csv_error(error: csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { pos: Some(at), expected_len, len } => {
            format!("line {}: has {len} fields, the head has {expected_len}", at.line())
        }
        csv::ErrorKind::Utf8 { pos: Some(at), .. } => format!("line {}: is not UTF-8", at.line()),
        _ => error.to_string(),
    }
}

/// JSON without its line breaks and the indentation behind them. In a string a line break is escaped
/// (RFC 8259, section 7), so those that stand there are between tokens.
fn on_one_line(json: &[u8]) -> Vec<u8> {
    json.split(|byte| matches!(byte, b'\n' | b'\r')).flat_map(<[u8]>::trim_ascii).copied().collect()
}

/// What is wrong, without the place that serde_json adds: it does not know where the text began.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map(|(what, _)| what.to_owned()).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::units::Interval;

    fn table(folder: &Path, name: &str, text: &str) -> LookupTable {
        fs::write(folder.join(name), text).unwrap();
        LookupTable { file: folder.join(name), key: "id".into(), reload: Interval::millis(100) }
    }

    #[test]
    fn the_three_formats_give_rows_as_json() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, row) in [
            ("a.csv", "id,name\n7,\"a\nb\"\n8,c\n", "{\"id\":\"7\",\"name\":\"a\\nb\"}"),
            ("a.json", " [ {\"id\": 7, \"n\": 1},\n{\"id\":\"8\"} ]\n", "{\"id\": 7, \"n\": 1}"),
            ("a.ndjson", "{\"id\":7}\n\n{\"id\":\"8\"}", "{\"id\":7}"),
            (
                "b.json",
                "[{\"id\":8},{\"n\":123456789012345678901234567890,\"id\":7}]",
                "{\"n\":123456789012345678901234567890,\"id\":7}",
            ),
            (
                "c.json",
                "[\r\n  {\r\n    \"id\": \"7\",\r\n    \"n\": [ 1.50,\n\t2e3 ],\n\n    \"s\": \" \\n  \"\n  },\n  {\"id\": \"8\"}\n]\n",
                "{\"id\": \"7\",\"n\": [ 1.50,2e3 ],\"s\": \" \\n  \"}",
            ),
            ("b.ndjson", "{\"id\":\r7}\r\n{\"id\":8}\r\n", "{\"id\":7}"),
        ] {
            let rows = load(&table(folder.path(), name, text)).unwrap();
            assert_eq!(rows.get(b"7").map(String::from_utf8_lossy).as_deref(), Some(row), "{name}");
            assert!(rows.get(b"8").is_some(), "{name}");
            assert!(rows.get(b"9").is_none(), "{name}");
        }
        assert!(load(&table(folder.path(), "empty.json", " [ ]\n")).unwrap().by_key.is_empty());
    }

    #[test]
    fn a_key_is_a_text_or_the_digits_that_stand_there() {
        let folder = tempfile::tempdir().unwrap();
        let text = "[{\"id\":1.50},{\"id\":12345678901234567890123},{\"id\":true},{\"id\":\"\\u0061\",\"id\":\"\\u0062\"}]";
        let rows = load(&table(folder.path(), "a.json", text)).unwrap();
        let mut keys: Vec<_> =
            rows.by_key.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        keys.sort();
        assert_eq!(keys, ["1.50", "12345678901234567890123", "b", "true"]);
    }

    #[test]
    fn a_bad_table_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, error) in [
            ("a.csv", "key,name\n7,a\n", "line 1: has no column \"id\", only key, name"),
            ("b.csv", "id,name\n7,a\n8\n", "line 3: has 1 fields, the head has 2"),
            ("c.csv", "id\n7\n8\n7\n", "line 4: the key \"7\" stands in line 2 already"),
            ("a.json", "[\n{\"id\":1},\n{\"id\":}]", "line 3: expected value"),
            ("b.json", "[\n{\"id\":1},\n{\"a\":1}]", "line 3: has no field \"id\""),
            ("c.json", "[{\"id\":1}\n", "line 2: EOF while parsing a list"),
            ("d.json", "{\"id\":1}", "line 1: is no array of objects"),
            ("e.json", "[{\"id\":1}]\n[]", "line 2: trailing characters"),
            ("f.json", "[\n", "line 2: EOF while parsing a list"),
            ("g.json", "[\n{\"id\":1}\n{\"id\":2}]", "line 3: expected `,` or `]`"),
            ("h.json", "[\n{\"id\":1},\n{\n\"id\":\n1}]", "line 3: the key \"1\" stands in line 2 already"),
            ("i.json", "[\n1]", "line 2: is no object"),
            ("j.json", "[{\"id\":\nnull}]", "line 1: \"id\" is no string or number"),
            ("k.json", "", "line 1: EOF while parsing a value"),
            ("a.ndjson", "{\"id\":1}\n[1]", "line 2: is no object"),
            ("a.txt", "", "name it .csv, .json or .ndjson"),
        ] {
            let message = load(&table(folder.path(), name, text)).unwrap_err();
            assert!(message.contains(error) && message.contains(name), "{name}: {message}");
        }
        let missing =
            LookupTable { file: folder.path().join("no.csv"), key: "id".into(), reload: Interval::secs(1) };
        assert!(load(&missing).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn a_changed_file_is_loaded_unless_it_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        let specs = BTreeMap::from([("t".to_owned(), table(folder.path(), "t.csv", "id,v\n1,old\n"))]);
        let tables = Tables::load(&specs).unwrap();
        let value = |tables: &Arc<Tables>| {
            let granted = tables.current();
            String::from_utf8(granted.rows("t").unwrap().get(b"1").unwrap().to_vec()).unwrap()
        };
        assert!(value(&tables).contains("old"));
        fs::write(folder.path().join("t.csv"), "id,v\n1,newer\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let wait_for = |done: &dyn Fn() -> bool| {
            while !done() {
                assert!(Instant::now() < deadline, "the changed table was never read");
                std::thread::yield_now();
            }
        };
        wait_for(&|| value(&tables).contains("newer"));
        fs::write(folder.path().join("t.csv"), "id,v\n1,broken\n1,twice\n").unwrap();
        let written = Stamp::of(&folder.path().join("t.csv"));
        // Its thread holds the tables until it is done.
        wait_for(&|| {
            value(&tables).contains("newer")
                && lock(&tables.watched)[0].stamp == written
                && Arc::strong_count(&tables) == 1
        });
        assert!(value(&tables).contains("newer"));
    }

    #[test]
    fn a_table_that_is_not_granted_is_told_with_the_line_to_add() {
        let text = Granted::default().line_to_add("users");
        assert!(text.contains("grants.lookup.users = { file = \"users.csv\", key = \"id\" }"), "{text}");
        assert!(Granted::default().line_to_add("a b").contains("grants.lookup.\"a b\" ="));
    }
}
