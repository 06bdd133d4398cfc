//! Where a row goes in the text of a payload. The rest of the text stays as it is, so numbers keep
//! their digits and objects their order.

use millstream_sdk::Failure;
use millstream_sdk::pointer::Pointers;

pub struct Target {
    pointer: String,
    /// Its steps as JSON strings, for the objects that must be made.
    names: Vec<String>,
    /// The pointer to each object on the way, from the whole payload on, and at last the target.
    way: Pointers,
}

/// Bytes of a payload that are replaced by `before`, a value and `after`.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub start: usize,
    pub end: usize,
    pub before: String,
    pub after: String,
}

impl Target {
    /// The error says what is wrong with the pointer.
    pub fn new(pointer: &str) -> Result<Self, String> {
        let Some(steps) = pointer.strip_prefix('/') else {
            return Err("is a json pointer to a field, such as `/customer`".to_owned());
        };
        let mut way = Pointers::default();
        let mut end = 0;
        way.push("").map_err(|error| error.to_string())?;
        let mut names = Vec::new();
        for step in steps.split('/') {
            if step == "*" {
                return Err("is one place; `*` would be many".to_owned());
            }
            end += 1 + step.len();
            way.push(&pointer[..end]).map_err(|error| error.to_string())?;
            let name = step.replace("~1", "/").replace("~0", "~");
            names.push(serde_json::Value::String(name).to_string());
        }
        Ok(Target { pointer: pointer.to_owned(), names, way })
    }

    /// # Errors
    /// Rejects what is not JSON, and a payload in which something on the way is neither an object
    /// nor null.
    pub fn find(&self, payload: &[u8]) -> Result<Place, Failure> {
        let mut deepest = (0, "");
        // Of two fields of one name the last counts, as most readers have it.
        self.way.find(payload, |depth, json| {
            if depth >= deepest.0 {
                deepest = (depth, json);
            }
        })?;
        let (depth, json) = deepest;
        let start = json.as_ptr() as usize - payload.as_ptr() as usize;
        let end = start + json.len();
        let missing = &self.names[depth..];
        if missing.is_empty() {
            return Ok(Place { start, end, before: String::new(), after: String::new() });
        }
        let mut before = missing.join(":{") + ":";
        let mut after = "}".repeat(missing.len() - 1);
        match json.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(fields) => {
                if !fields.trim().is_empty() {
                    before.insert(0, ',');
                }
                Ok(Place { start: end - 1, end: end - 1, before, after })
            }
            None if json == "null" => {
                before.insert(0, '{');
                after.push('}');
                Ok(Place { start, end, before, after })
            }
            None => Err(Failure::reject(
                "enrich-target",
                format!("{} cannot be set: its step {depth} leads into no object", self.pointer),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pointer: &str, payload: &str) -> Result<String, String> {
        let place =
            Target::new(pointer)?.find(payload.as_bytes()).map_err(|failure| failure.text().to_owned())?;
        let (front, back) = (&payload[..place.start], &payload[place.end..]);
        Ok(format!("{front}{}ROW{}{back}", place.before, place.after))
    }

    fn ok(text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }

    #[test]
    fn what_is_there_is_replaced() {
        assert_eq!(set("/a", r#"{ "a": 1.50, "b": 2 }"#), ok(r#"{ "a": ROW, "b": 2 }"#));
        assert_eq!(set("/a/b", r#"{"a": {"b": {"c": 1}}}"#), ok(r#"{"a": {"b": ROW}}"#));
        assert_eq!(set("/a/1", r#"{"a": [1, 2]}"#), ok(r#"{"a": [1, ROW]}"#));
        assert_eq!(set("/0/a", r#"[{"a": null}]"#), ok(r#"[{"a": ROW}]"#));
    }

    #[test]
    fn what_is_missing_is_made() {
        assert_eq!(set("/a", "{}"), ok(r#"{"a":ROW}"#));
        assert_eq!(set("/a", " { } \n"), ok(" { \"a\":ROW} \n"));
        assert_eq!(set("/a", r#"{"b": 1}"#), ok(r#"{"b": 1,"a":ROW}"#));
        assert_eq!(set("/a/b/c", r#"{"b": 1}"#), ok(r#"{"b": 1,"a":{"b":{"c":ROW}}}"#));
        assert_eq!(set("/a/b", r#"{"a": {"c": 1}, "d": {}}"#), ok(r#"{"a": {"c": 1,"b":ROW}, "d": {}}"#));
        assert_eq!(set("/a/b", r#"{"a": null}"#), ok(r#"{"a": {"b":ROW}}"#));
        assert_eq!(set("/a", "null"), ok(r#"{"a":ROW}"#));
        assert_eq!(set("/x~1y/~0", "{}"), ok(r#"{"x/y":{"~":ROW}}"#));
        assert_eq!(set("/a\"b", "{}"), ok(r#"{"a\"b":ROW}"#));
        assert_eq!(set("/", r#"{"a": "}"}"#), ok(r#"{"a": "}","":ROW}"#));
    }

    #[test]
    fn what_is_no_object_is_not_gone_into() {
        for payload in [r#"{"a": 1}"#, r#"{"a": "{}"}"#, r#"{"a": [1]}"#] {
            let error = set("/a/b", payload).unwrap_err();
            assert_eq!(error, "/a/b cannot be set: its step 1 leads into no object", "{payload}");
        }
        assert!(set("/a", "[]").is_err());
        assert!(set("/a", "{").is_err());
    }

    #[test]
    fn of_two_fields_of_one_name_the_last_is_set() {
        assert_eq!(
            set("/a/b", r#"{"a": {"b": 1}, "a": {"b": 2}}"#),
            ok(r#"{"a": {"b": 1}, "a": {"b": ROW}}"#)
        );
    }

    #[test]
    fn bad_pointers_are_refused() {
        for pointer in ["", "a", "/a/*", "/a~2"] {
            assert!(Target::new(pointer).is_err(), "{pointer:?}");
        }
    }
}
