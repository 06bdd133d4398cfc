//! Values that came from the environment are never printed.
//!
//! Every value that a variable put into a pipeline file is kept here, and blanked out of whatever
//! is printed: problems of `check`, logs, messages of plugins.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{LazyLock, RwLock};

/// Values shorter than this (in characters) are blanked out only in problems of the place they
/// stand at: a `5` or `on` would turn up in half of all texts.
pub const MIN_CHARS: usize = 4;

/// Lines of a longer value (a PEM key) are looked for one by one from this many characters, so
/// that `-----` alone is none.
const MIN_LINE_CHARS: usize = 8;

static GLOBAL: LazyLock<Redactor> = LazyLock::new(Redactor::default);

/// What must not be printed, for the whole process.
#[derive(Default)]
pub struct Redactor(RwLock<Secrets>);

impl Redactor {
    /// The one that logs and messages of plugins go through.
    pub fn global() -> &'static Redactor {
        &GLOBAL
    }

    pub fn add(&self, secrets: &Secrets) {
        let mut all = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        for secret in &secrets.0 {
            if !all.0.contains(secret) {
                all.0.push(secret.clone());
            }
        }
    }

    /// The text with `(from ${NAME})` in place of each value of at least [`MIN_CHARS`] characters
    /// that came from a variable.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner()).redact(text, Short::Shown)
    }
}

/// Values, each with the words to print for it.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Vec<Secret>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Secret {
    form: String,
    instead: String,
}

/// What to do with values shorter than [`MIN_CHARS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Short {
    Shown,
    /// Where they stand as a word of their own.
    Hidden,
}

impl Secrets {
    /// Adds a value, in all the forms in which programs print it. `instead` is what stands in its
    /// place: `(from ${NAME})`.
    pub fn add(&mut self, value: &str, instead: &str) {
        let mut forms = vec![value.to_owned(), value.trim().to_owned(), value.escape_debug().to_string()];
        if let Ok(json) = serde_json::to_string(value) {
            forms.push(json[1..json.len() - 1].to_owned());
        }
        forms.extend(url_forms(value));
        forms.extend(
            value.lines().map(str::trim).filter(|line| has_chars(line, MIN_LINE_CHARS)).map(String::from),
        );
        for form in forms.into_iter().filter(|form| !form.is_empty()) {
            let secret = Secret { form, instead: instead.to_owned() };
            if !self.0.contains(&secret) {
                self.0.push(secret);
            }
        }
    }

    pub fn extend(&mut self, other: &Secrets) {
        for secret in &other.0 {
            if !self.0.contains(secret) {
                self.0.push(secret.clone());
            }
        }
    }

    pub fn redact<'a>(&self, text: &'a str, short: Short) -> Cow<'a, str> {
        let mut found: Vec<(Range<usize>, &str)> = Vec::new();
        for secret in &self.0 {
            let is_short = !has_chars(&secret.form, MIN_CHARS);
            if is_short && short == Short::Shown {
                continue;
            }
            for (start, matched) in text.match_indices(secret.form.as_str()) {
                let range = start..start + matched.len();
                if !is_short || is_a_word(text, &range) {
                    found.push((range, &secret.instead));
                }
            }
        }
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        // Longest first where two start together; what overlaps is blanked out as one.
        found.sort_by_key(|(range, _)| (range.start, usize::MAX - range.end));
        let mut redacted = String::with_capacity(text.len());
        let mut done = 0;
        for (range, instead) in found {
            if range.start >= done {
                redacted.push_str(&text[done..range.start]);
                redacted.push_str(instead);
            }
            done = done.max(range.end);
        }
        redacted.push_str(&text[done..]);
        Cow::Owned(redacted)
    }
}

fn has_chars(text: &str, at_least: usize) -> bool {
    text.chars().nth(at_least - 1).is_some()
}

fn is_a_word(text: &str, range: &Range<usize>) -> bool {
    let before = text[..range.start].chars().next_back();
    let after = text[range.end..].chars().next();
    !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
}

/// The value as a URL shows it: as its password and in its query.
fn url_forms(value: &str) -> Vec<String> {
    let Ok(mut url) = reqwest::Url::parse("http://host/") else { return Vec::new() };
    let mut forms = Vec::new();
    if url.set_password(Some(value)).is_ok() {
        forms.extend(url.password().map(String::from));
    }
    url.set_query(Some(value));
    forms.extend(url.query().map(String::from));
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[(&str, &str)]) -> Secrets {
        let mut secrets = Secrets::default();
        for (value, instead) in values {
            secrets.add(value, instead);
        }
        secrets
    }

    #[test]
    fn values_are_blanked_out_in_every_form() {
        let value = "p@ss \"wörd\"\n/x?y";
        let secrets = secrets(&[(value, "<A>")]);
        let url = {
            let mut url = reqwest::Url::parse("http://host/").expect("a URL");
            url.set_password(Some(value)).expect("it can have one");
            url.to_string()
        };
        for text in [
            format!("plain {value}"),
            format!("debug {value:?}"),
            format!("json {}", serde_json::json!(value)),
            url,
        ] {
            let redacted = secrets.redact(&text, Short::Shown);
            assert!(redacted.contains("<A>") && !redacted.contains("rd"), "{text} became {redacted}");
        }
    }

    #[test]
    fn overlaps_and_neighbours_leave_no_rest() {
        let secrets = secrets(&[("abcdef", "<A>"), ("defghi", "<B>"), ("abcd", "<C>")]);
        assert_eq!(secrets.redact("1 abcdefghi 2 abcd 3", Short::Shown), "1 <A> 2 <C> 3");
        assert_eq!(secrets.redact("abcdabcd", Short::Shown), "<C><C>");
        assert!(matches!(secrets.redact("nothing of it", Short::Shown), Cow::Borrowed(_)));
    }

    #[test]
    fn short_values_are_hidden_as_words_and_only_where_asked() {
        let secrets = secrets(&[("5", "<A>")]);
        assert_eq!(secrets.redact("5 of 15", Short::Shown), "5 of 15");
        assert_eq!(secrets.redact("5 of 15, `5`", Short::Hidden), "<A> of 15, `<A>`");
    }

    #[test]
    fn the_lines_of_a_key_are_hidden_one_by_one() {
        let secrets = secrets(&[("-----BEGIN-----\nMIIEvQIBADAN\n-----END-----", "<KEY>")]);
        assert_eq!(secrets.redact("bad base64: MIIEvQIBADAN", Short::Shown), "bad base64: <KEY>");
    }
}
