//! Values at JSON pointers, found in one pass over the text, without building the rest.
//!
//! A crate of its own, since the host hides in dead letters what plugins hide in messages, and finds
//! it in the same way; it needs nothing else of the SDK.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// JSON pointers (RFC 6901) in which `*` stands for every element of a list or every field of an
/// object.
#[derive(Clone, Debug, Default)]
pub struct Pointers(Vec<Vec<String>>);

/// What is wrong with a pointer, for the error of a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadPointer(pub &'static str);

impl fmt::Display for BadPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadPointer {}

/// The text is not JSON, and why.
#[derive(Debug)]
pub struct NotJson(serde_json::Error);

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the payload is not json: {}", self.0)
    }
}

impl std::error::Error for NotJson {}

impl Pointers {
    /// Adds a pointer; they are numbered from 0. The empty one is the whole text.
    pub fn push(&mut self, pointer: &str) -> Result<usize, BadPointer> {
        let mut steps = pointer.split('/');
        if steps.next() != Some("") {
            return Err(BadPointer("a json pointer is empty or starts with `/`"));
        }
        let steps: Result<Vec<String>, BadPointer> = steps.map(unescape).collect();
        self.0.push(steps?);
        Ok(self.0.len() - 1)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls `found` with the number of a pointer and the JSON text of a value there, a slice of
    /// `json`; in the order of the text, an outer value before those within it.
    ///
    /// # Errors
    /// It is not JSON; some values may have been found before.
    pub fn find<'a>(&self, json: &'a [u8], mut found: impl FnMut(usize, &'a str)) -> Result<(), NotJson> {
        if self.is_empty() {
            return Ok(());
        }
        let all: Vec<usize> = (0..self.0.len()).collect();
        let mut search = Search { pointers: &self.0, found: &mut found };
        let mut text = serde_json::Deserializer::from_slice(json);
        search.value(&all, 0, &mut text).and_then(|()| text.end()).map_err(NotJson)
    }
}

fn unescape(step: &str) -> Result<String, BadPointer> {
    let mut text = String::with_capacity(step.len());
    let mut rest = step.chars();
    while let Some(character) = rest.next() {
        text.push(match (character, character == '~') {
            (_, true) => match rest.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err(BadPointer("`~` in a json pointer is followed by `0` or `1`")),
            },
            (other, false) => other,
        });
    }
    Ok(text)
}

struct Search<'s, F> {
    pointers: &'s [Vec<String>],
    found: &'s mut F,
}

impl<'a, F: FnMut(usize, &'a str)> Search<'_, F> {
    /// Reads a value that `active` pointers lead to, or through, with their first `depth` steps.
    fn value<D: Deserializer<'a>>(
        &mut self,
        active: &[usize],
        depth: usize,
        value: D,
    ) -> Result<(), D::Error> {
        let ends_here = |&&pointer: &&usize| self.pointers[pointer].len() == depth;
        if !active.iter().any(|pointer| ends_here(&pointer)) {
            return value.deserialize_any(Within { search: self, active, depth });
        }
        let text = <&'a RawValue as serde::Deserialize>::deserialize(value)?.get();
        let (here, within): (Vec<usize>, Vec<usize>) = active.iter().partition(|pointer| ends_here(pointer));
        for pointer in here {
            (self.found)(pointer, text);
        }
        if within.is_empty() {
            return Ok(());
        }
        let mut again = serde_json::Deserializer::from_str(text);
        let within = Within { search: self, active: &within, depth };
        (&mut again).deserialize_any(within).map_err(serde::de::Error::custom)
    }

    /// Those of `active` whose next step this is.
    fn next(&self, active: &[usize], depth: usize, step: Step<'_>) -> Vec<usize> {
        let leads = |pointer: &&usize| match &self.pointers[**pointer][depth] {
            any if any == "*" => true,
            wanted => match step {
                Step::Field(name) => name == wanted,
                Step::Element(index) => is_index(wanted, index),
            },
        };
        active.iter().filter(leads).copied().collect()
    }
}

#[derive(Clone, Copy)]
enum Step<'s> {
    Field(&'s str),
    Element(usize),
}

/// RFC 6901 has indexes without leading zeros.
fn is_index(step: &str, index: usize) -> bool {
    step.parse() == Ok(index)
        && step.starts_with(|first: char| first.is_ascii_digit())
        && (step == "0" || !step.starts_with('0'))
}

/// Goes into a list or an object.
struct Within<'r, 's, F> {
    search: &'r mut Search<'s, F>,
    active: &'r [usize],
    depth: usize,
}

impl<'a, F: FnMut(usize, &'a str)> Visitor<'a> for Within<'_, '_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a json value")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = fields.next_key()? {
            let active = self.search.next(self.active, self.depth, Step::Field(&name));
            fields.next_value_seed(Next { search: self.search, active, depth: self.depth + 1 })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut index = 0;
        loop {
            let active = self.search.next(self.active, self.depth, Step::Element(index));
            let next = Next { search: self.search, active, depth: self.depth + 1 };
            if elements.next_element_seed(next)?.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    // Nothing is within any other value.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// The name of a field, borrowed if it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

struct Next<'r, 's, F> {
    search: &'r mut Search<'s, F>,
    active: Vec<usize>,
    depth: usize,
}

impl<'a, F: FnMut(usize, &'a str)> DeserializeSeed<'a> for Next<'_, '_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, value: D) -> Result<(), D::Error> {
        if self.active.is_empty() {
            value.deserialize_ignored_any(IgnoredAny)?;
            return Ok(());
        }
        self.search.value(&self.active, self.depth, value)
    }
}

/// The text of a JSON string, or a number or boolean as it stands; `None` for anything else.
pub fn scalar(json: &str) -> Option<Cow<'_, [u8]>> {
    match json.as_bytes().first()? {
        b'{' | b'[' | b'n' => None,
        b'"' => Some(Cow::Owned(serde_json::from_str::<String>(json).ok()?.into_bytes())),
        _ => Some(Cow::Borrowed(json.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(pointers: &[&str], json: &str) -> Vec<(usize, String)> {
        let mut all = Pointers::default();
        for pointer in pointers {
            all.push(pointer).unwrap();
        }
        let mut found = Vec::new();
        all.find(json.as_bytes(), |pointer, text| found.push((pointer, text.to_owned()))).unwrap();
        found
    }

    #[track_caller]
    fn assert_found(pointers: &[&str], json: &str, expected: &[(usize, &str)]) {
        let found = find(pointers, json);
        let found: Vec<(usize, &str)> =
            found.iter().map(|(pointer, text)| (*pointer, text.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn values_are_found_as_they_stand_in_the_text() {
        let json = r#"{"a": {"b": [1.50, {"c" :"x\n"}], "d":null}, "e/~": true, "": 0}"#;
        assert_found(&["/a/b/0", "/a/b/1/c", "/a/d"], json, &[(0, "1.50"), (1, r#""x\n""#), (2, "null")]);
        assert_found(&["/e~1~0", "/"], json, &[(0, "true"), (1, "0")]);
        assert_found(&["/a/b"], json, &[(0, r#"[1.50, {"c" :"x\n"}]"#)]);
        assert_found(&["/x", "/a/b/2", "/a/d/x", "/a/b/00", "/a/b/+1", "/a/b/-"], json, &[]);
        assert_found(&[""], " 1 ", &[(0, "1")]);
    }

    #[test]
    fn a_star_is_every_element_and_every_field() {
        assert_found(&["/*/a"], r#"[{"a":1},{"b":2},3,{"a":4}]"#, &[(0, "1"), (0, "4")]);
        assert_found(&["/*"], r#"{"x":1,"y":2}"#, &[(0, "1"), (0, "2")]);
    }

    #[test]
    fn an_outer_value_comes_before_those_within_it() {
        let json = r#"{"a":{"b":1},"c":2}"#;
        assert_found(
            &["/a/b", "/a", "/c", "/*"],
            json,
            &[(1, r#"{"b":1}"#), (3, r#"{"b":1}"#), (0, "1"), (2, "2"), (3, "2")],
        );
    }

    #[test]
    fn a_field_is_found_however_it_is_written_and_each_time_it_comes() {
        assert_found(&["/a"], r#"{"\u0061":1,"a":2}"#, &[(0, "1"), (0, "2")]);
    }

    #[test]
    fn what_is_not_json_is_rejected() {
        let mut pointers = Pointers::default();
        pointers.push("/a").unwrap();
        for json in ["", "{", "{\"a\":1} x", "{\"b\":[1,}", "nul"] {
            let error = pointers.find(json.as_bytes(), |_, _| {}).unwrap_err().to_string();
            assert!(error.starts_with("the payload is not json: "), "{json}: {error}");
        }
    }

    #[test]
    fn a_bad_pointer_is_named() {
        let mut pointers = Pointers::default();
        assert!(pointers.push("a").is_err());
        assert!(pointers.push("/a~2").is_err());
        assert!(pointers.push("/a~").is_err());
        assert!(pointers.is_empty());
    }
}
