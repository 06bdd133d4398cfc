//! `csv`: a payload is a JSON object made of a record's fields.

use std::fmt;
use std::sync::Arc;

use csv_core::{ReadRecordResult, WriteResult};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::framing::{csv_reader, start_record};
use super::record::Text;
use super::{
    CodecSpec, DecodeError, Decoder, DecoderConfig, EncodeError, Encoder, Ends, FrameMeta, Framing, json,
    no_payload,
};
use crate::config::problem::Problem;
use crate::config::{Parsed, parse};
use crate::message::{BatchBuilder, MessageRef, Span};

pub const SPEC: CodecSpec = CodecSpec {
    name: "csv",
    schema: || schemars::schema_for!(Csv),
    example: "codec = { type = \"csv\", key = \"customer\", numbers = true }",
    decoder: |value, _| Ok(Arc::new(Csv::for_reading(parse(value)?)?)),
    encoder: |value, _| Ok(Arc::new(CsvEncoder::new(&Csv::for_writing(parse(value)?)?))),
};

/// Records as in RFC 4180, whose line ends may be `\n` too. Read, a record becomes a JSON object with a
/// string for each column. Written, an object becomes a record: strings as they are, null and
/// missing fields empty, anything else as JSON text; keys and headers are not written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Csv {
    /// What stands between two fields, one ASCII character; `"\t"` for tabs.
    delimiter: char,
    /// Whether the first record of a file holds the names of the columns.
    head: bool,
    /// Names of the columns in order. Needed for writing: these fields of a payload are written
    /// and no others. For reading only with `head = false`.
    columns: Option<Vec<String>>,
    /// For reading: the column whose value becomes the message's key, unless it is empty. It stays
    /// in the payload too.
    key: Option<String>,
    /// For reading: a value that could stand in JSON as a number does so, digit for digit.
    numbers: bool,
}

impl Default for Csv {
    fn default() -> Csv {
        Csv { delimiter: ',', head: true, columns: None, key: None, numbers: false }
    }
}

impl Csv {
    fn for_reading(self) -> Parsed<Csv> {
        let mut problems = self.problems();
        match &self.columns {
            Some(_) if self.head => problems.push(
                Problem::new("/columns", "the names of the columns are read from the first record of a file")
                    .help("for files without such a record add `head = false`, otherwise remove `columns`"),
            ),
            None if !self.head => problems.push(
                Problem::new("/head", "without a head the names of the columns must be given")
                    .help("add `columns = [\"first\", \"second\"]`"),
            ),
            Some(columns) => {
                if let Err(problem) = self.key_column(columns) {
                    problems.push(Problem::new("/key", problem));
                }
            }
            None => {}
        }
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    fn for_writing(self) -> Parsed<Csv> {
        let mut problems = self.problems();
        if self.columns.is_none() {
            problems.push(
                Problem::new("", "to write CSV the columns must be given")
                    .help("add `columns = [\"first\", \"second\"]`, with names of fields of the payload"),
            );
        }
        for (name, given) in [("key", self.key.is_some()), ("numbers", self.numbers)] {
            if given {
                problems.push(Problem::new(
                    format!("/{name}"),
                    format!("`{name}` is only for reading; remove it"),
                ));
            }
        }
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !self.delimiter.is_ascii() || matches!(self.delimiter, '"' | '\n' | '\r') {
            problems.push(
                Problem::new("/delimiter", format!("{:?} cannot stand between fields", self.delimiter))
                    .help("one ASCII character that is no quote and no line break"),
            );
        }
        if let Some(Err(problem)) = self.columns.as_deref().map(check_names) {
            problems.push(Problem::new("/columns", problem));
        }
        problems
    }

    /// Which of the columns is the key.
    fn key_column(&self, columns: &[String]) -> Result<Option<usize>, String> {
        let Some(key) = &self.key else { return Ok(None) };
        let column = columns.iter().position(|column| column == key);
        column
            .map(Some)
            .ok_or_else(|| format!("there is no column {key:?}; there are {}", columns.join(", ")))
    }
}

fn check_names(names: &[String]) -> Result<(), String> {
    if names.is_empty() {
        return Err("there are no columns".into());
    }
    match names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
        Some((index, name)) => Err(format!("column {} has the name {name:?} of one before it", index + 1)),
        None => Ok(()),
    }
}

impl DecoderConfig for Csv {
    fn framing(&self) -> Framing {
        Framing::Csv { delimiter: self.delimiter as u8 }
    }

    fn frame_is_payload(&self) -> bool {
        false
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        let mut decoder = CsvDecoder {
            config: self.clone(),
            reader: csv_reader(self.delimiter as u8),
            fields: vec![0; 1024],
            ends: vec![0; 32],
            columns: Vec::new(),
            key: None,
        };
        if let Some(columns) = &self.columns {
            // Checked in `for_reading`.
            decoder.key = self.key_column(columns).unwrap_or_default();
            decoder.columns = member_names(columns);
        }
        Box::new(decoder)
    }
}

/// The names as they stand in a JSON object: quoted, with the colon.
fn member_names(columns: &[String]) -> Vec<String> {
    columns.iter().map(|column| format!("{}:", serde_json::Value::from(column.as_str()))).collect()
}

struct CsvDecoder {
    config: Csv,
    reader: csv_core::Reader,
    /// The fields of a record one after the other, and where each ends. Both only ever grow.
    fields: Vec<u8>,
    ends: Vec<usize>,
    columns: Vec<String>,
    key: Option<usize>,
}

impl CsvDecoder {
    /// Takes a frame apart into `fields` and `ends`, and returns how many there are.
    fn split(&mut self, frame: &[u8]) -> Result<usize, DecodeError> {
        start_record(&mut self.reader);
        let (mut read, mut written, mut count) = (0, 0, 0);
        loop {
            // The line break that the frame came without.
            let input = if read < frame.len() { &frame[read..] } else { b"\n" };
            let (result, bytes_in, bytes_out, ends) =
                self.reader.read_record(input, &mut self.fields[written..], &mut self.ends[count..]);
            (read, written, count) = (read + bytes_in, written + bytes_out, count + ends);
            match result {
                ReadRecordResult::OutputFull => self.fields.resize(self.fields.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::InputEmpty if read > frame.len() => {
                    return Err(DecodeError(format!(
                        "field {} begins with a quote that is never closed; inside quotes a quote is doubled",
                        count + 1
                    )));
                }
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::Record if read < frame.len() => {
                    return Err(DecodeError(format!(
                        "another record begins at byte {read}, where one was expected"
                    )));
                }
                ReadRecordResult::Record | ReadRecordResult::End => return Ok(count),
            }
        }
    }

    fn field(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.fields[start..self.ends[index]]
    }
}

fn check_utf8(bytes: &[u8]) -> Result<(), DecodeError> {
    str::from_utf8(bytes).map(|_| ()).map_err(|error| {
        DecodeError(format!("the byte at {} is not UTF-8; convert the data to UTF-8", error.valid_up_to()))
    })
}

impl Decoder for CsvDecoder {
    fn has_head(&self) -> bool {
        self.config.head
    }

    fn head(&mut self, head: &[u8]) -> Result<(), DecodeError> {
        check_utf8(head)?;
        let count = self.split(head)?;
        let names: Vec<String> =
            (0..count).map(|index| String::from_utf8_lossy(self.field(index)).into_owned()).collect();
        check_names(&names).map_err(DecodeError)?;
        self.key = self.config.key_column(&names).map_err(DecodeError)?;
        self.columns = member_names(&names);
        Ok(())
    }

    fn decode(
        &mut self,
        bytes: &[u8],
        _frame: Span,
        meta: &FrameMeta<'_>,
        out: &mut BatchBuilder,
    ) -> Result<(), DecodeError> {
        check_utf8(bytes)?;
        let count = self.split(bytes)?;
        if count != self.columns.len() {
            return Err(DecodeError(format!("the record has {count} fields, not {}", self.columns.len())));
        }
        let payload = out.copy_with(|out| {
            for (index, name) in self.columns.iter().enumerate() {
                out.push(if index == 0 { b'{' } else { b',' });
                out.extend_from_slice(name.as_bytes());
                let field = self.field(index);
                if self.config.numbers && is_number(field) {
                    out.extend_from_slice(field);
                } else {
                    json::write_string(&String::from_utf8_lossy(field), out);
                }
            }
            out.push(b'}');
        });
        let key = match self.key.map(|column| self.field(column)) {
            None => meta.key,
            Some([]) => Span::ABSENT,
            Some(key) => out.copy(key),
        };
        out.push(payload, key, meta.headers, meta.timestamp_ms, meta.position);
        Ok(())
    }
}

/// Whether the bytes are a JSON number and nothing else.
fn is_number(bytes: &[u8]) -> bool {
    matches!(bytes, [b'-' | b'0'..=b'9', ..])
        && matches!(bytes, [.., b'0'..=b'9'])
        && serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

struct CsvEncoder {
    columns: Vec<String>,
    head: bool,
    writer: csv_core::Writer,
}

impl CsvEncoder {
    fn new(config: &Csv) -> CsvEncoder {
        CsvEncoder {
            columns: config.columns.clone().unwrap_or_default(),
            head: config.head,
            writer: csv_core::WriterBuilder::new().delimiter(config.delimiter as u8).build(),
        }
    }

    fn write<'a>(&self, fields: impl Iterator<Item = std::borrow::Cow<'a, [u8]>>, out: &mut Vec<u8>) {
        let start = out.len();
        let mut writer = self.writer.clone();
        let mut piece = [0; 256];
        for (index, field) in fields.enumerate() {
            if index > 0 {
                drain(out, &mut piece, |piece| writer.delimiter(piece));
            }
            let mut rest = &field[..];
            drain(out, &mut piece, |piece| {
                let (result, read, written) = writer.field(rest, piece);
                rest = &rest[read..];
                (result, written)
            });
        }
        drain(out, &mut piece, |piece| writer.finish(piece));
        if out.len() == start {
            // One empty field: a blank line would be none.
            out.extend_from_slice(b"\"\"");
        }
    }
}

/// Calls until everything is written.
fn drain(out: &mut Vec<u8>, piece: &mut [u8], mut write: impl FnMut(&mut [u8]) -> (WriteResult, usize)) {
    loop {
        let (result, written) = write(piece);
        out.extend_from_slice(&piece[..written]);
        if matches!(result, WriteResult::InputEmpty) {
            return;
        }
    }
}

impl Encoder for CsvEncoder {
    fn head(&self) -> Option<Vec<u8>> {
        self.head.then(|| {
            let mut head = Vec::new();
            self.write(self.columns.iter().map(|column| column.as_bytes().into()), &mut head);
            head.push(b'\n');
            head
        })
    }

    fn encode(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let payload = message.payload().ok_or_else(no_payload)?;
        let refuse = |error: &str| {
            EncodeError(format!("the payload is not a JSON object: {error}; codec \"record\" can write it"))
        };
        let text = str::from_utf8(payload).map_err(|error| refuse(&error.to_string()))?;
        let mut reader = serde_json::Deserializer::from_str(text);
        let mut cells = Cells { columns: &self.columns, values: vec![None; self.columns.len()] };
        (&mut cells)
            .deserialize(&mut reader)
            .and_then(|()| reader.end())
            .map_err(|error| refuse(&json::describe(&error)))?;
        // A lone surrogate is found here only, so nothing is written before.
        let fields: Vec<_> = (cells.values.into_iter().zip(&self.columns))
            .map(|(value, column)| {
                cell(value)
                    .map_err(|error| EncodeError(format!("column {column:?}: {}", json::describe(&error))))
            })
            .collect::<Result<_, _>>()?;
        self.write(fields.into_iter(), out);
        Ok(())
    }

    fn ends(&self) -> Ends {
        Ends::QuotedLineBreaks
    }

    fn media_type(&self) -> &'static str {
        "text/csv"
    }
}

fn cell(value: Option<&RawValue>) -> serde_json::Result<std::borrow::Cow<'_, [u8]>> {
    let Some(value) = value else { return Ok((&[][..]).into()) };
    let text = value.get();
    Ok(match text.as_bytes()[0] {
        b'"' => match serde_json::from_str::<Text>(text)?.0 {
            std::borrow::Cow::Borrowed(text) => text.as_bytes().into(),
            std::borrow::Cow::Owned(text) => text.into_bytes().into(),
        },
        b'n' => (&[][..]).into(),
        b'{' | b'[' => {
            let mut compact = Vec::with_capacity(text.len());
            json::compact(text, &mut compact);
            compact.into()
        }
        _ => text.as_bytes().into(),
    })
}

/// Picks the values of the columns out of an object; of a repeated name the last.
struct Cells<'c, 'de> {
    columns: &'c [String],
    values: Vec<Option<&'de RawValue>>,
}

impl<'de> DeserializeSeed<'de> for &mut Cells<'_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Cells<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Text<'de>>()? {
            match self.columns.iter().position(|column| *column == *name.0) {
                Some(column) => self.values[column] = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{decode, decoder, encode, encoder, payload};

    fn read(config: &str, stream: &str) -> Result<String, String> {
        let messages = decode("csv", config, stream.as_bytes())?;
        assert_eq!(messages.len(), 1);
        let key = messages[0].key.as_deref().map(String::from_utf8_lossy);
        let payload = String::from_utf8_lossy(messages[0].payload.as_deref().unwrap());
        Ok(key.map_or(payload.to_string(), |key| format!("{key}: {payload}")))
    }

    fn write(config: &str, json: &str) -> Result<String, String> {
        encode("csv", config, &payload(json.as_bytes())).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_record_becomes_an_object() {
        assert_eq!(
            read("{}", "id,the \"name\",c\n7,\"a \"\"b\"\"\r\nc\",\n").unwrap(),
            r#"{"id":"7","the \"name\"":"a \"b\"\r\nc","c":""}"#
        );
        assert_eq!(
            read(r#"{"delimiter": "\t", "head": false, "columns": ["a", "b"]}"#, "1,2\tx").unwrap(),
            r#"{"a":"1,2","b":"x"}"#
        );
        let wide = "long ".repeat(500) + ",b" + &",".repeat(100);
        let columns: Vec<String> = (0..102).map(|n| n.to_string()).collect();
        let config = serde_json::json!({ "head": false, "columns": columns }).to_string();
        let object: serde_json::Value = serde_json::from_str(&read(&config, &wide).unwrap()).unwrap();
        assert_eq!(object["0"], "long ".repeat(500));
        assert_eq!((&object["1"], &object["101"]), (&"b".into(), &"".into()));
    }

    #[test]
    fn a_column_becomes_the_key() {
        assert_eq!(read(r#"{"key": "b"}"#, "a,b\n1,x").unwrap(), r#"x: {"a":"1","b":"x"}"#);
        assert_eq!(read(r#"{"key": "b"}"#, "a,b\n1,").unwrap(), r#"{"a":"1","b":""}"#);
        assert_eq!(
            read(r#"{"key": "c"}"#, "a,b\n1,").unwrap_err(),
            "there is no column \"c\"; there are a, b"
        );
    }

    #[test]
    fn numbers_keep_their_digits() {
        let config = r#"{"numbers": true, "head": false, "columns": ["a", "b", "c", "d", "e", "f", "g"]}"#;
        assert_eq!(
            read(config, "1.10,-0,007,1 ,12345678901234567890123,1e5,-").unwrap(),
            r#"{"a":1.10,"b":-0,"c":"007","d":"1 ","e":12345678901234567890123,"f":1e5,"g":"-"}"#
        );
    }

    #[test]
    fn what_is_no_record_is_refused_with_the_place() {
        for (stream, what) in [
            (&b"a,b\n1"[..], "the record has 1 fields, not 2"),
            (b"a,b\n1,2,3", "the record has 3 fields, not 2"),
            (b"a,b\n1,\"2\n3\n", "field 2 begins with a quote that is never closed"),
            (b"a,b\n1,\xff", "the byte at 2 is not UTF-8"),
            (b"a,b\n1,2\n3,4", "another record begins at byte 4"),
            (b"a,a\n", "column 2 has the name \"a\" of one before it"),
        ] {
            let error = decode("csv", "{}", stream).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn an_object_becomes_a_record() {
        let config = r#"{"columns": ["id", "b", "c"]}"#;
        assert_eq!(write(config, r#"{"c": 1.10, "x": 0, "id": "7"}"#).unwrap(), "7,,1.10");
        assert_eq!(
            write(config, r#"{"id": "a,\u0022b\"\n", "b": null, "c": {"n": [1, true]}}"#).unwrap(),
            "\"a,\"\"b\"\"\n\",,\"{\"\"n\"\":[1,true]}\""
        );
        assert_eq!(encoder("csv", config).unwrap().head().unwrap(), b"id,b,c\n");
        let long = "x,".repeat(1000);
        let json = serde_json::json!({ "id": long }).to_string();
        assert_eq!(write(r#"{"columns": ["id"], "delimiter": ";"}"#, &json).unwrap(), long);
        assert_eq!(write(r#"{"columns": ["id"]}"#, "{}").unwrap(), "\"\"");
        let headless = encoder("csv", r#"{"columns": ["id"], "head": false}"#).unwrap();
        assert_eq!(headless.head(), None);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for (json, what) in [
            ("[1]", "invalid type: sequence, expected an object at column"),
            (r#"{"a":"\ud800"}"#, "column \"a\""),
            (r#"{"a":1} x"#, "trailing characters"),
            (r#"{"a":"#, "EOF"),
        ] {
            let error = write(r#"{"columns": ["a"]}"#, json).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn all_mistakes_in_a_configuration_are_told_at_once() {
        let config = r#"{"delimiter": "\"", "head": false, "columns": ["a", "a"], "key": "b"}"#;
        let problems = decoder("csv", config).err().unwrap();
        let places: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        assert_eq!(places, ["/delimiter", "/columns", "/key"]);
        let problems = encoder("csv", r#"{"key": "a", "numbers": true}"#).err().unwrap();
        let places: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        assert_eq!(places, ["", "/key", "/numbers"]);
        assert!(decoder("csv", r#"{"columns": ["a"]}"#).is_err());
        assert!(decoder("csv", r#"{"head": false}"#).is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_was_written_is_read_again(values in proptest::collection::vec(".{0,8}", 3)) {
            let config = r#"{"head": false, "columns": ["a", "b", "c"]}"#;
            let object = serde_json::json!({ "a": values[0], "b": values[1], "c": values[2] }).to_string();
            proptest::prop_assert_eq!(read(config, &write(config, &object).unwrap()).unwrap(), object);
        }
    }
}
