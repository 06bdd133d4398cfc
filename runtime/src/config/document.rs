//! A pipeline file in memory: its values, where each stands, which came from the environment, and
//! what is wrong with it so far.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::parse::{escape, leave_out};
use super::problem::Problem;
use super::report::{Located, Place, Report};
use super::secrets::{Redactor, Secrets, Short};
use super::syntax::{self, Spot};
use super::variables::{Environment, interpolate};

/// A text longer than this (in characters) is cut where a message shows it.
const SHOWN_CHARS: usize = 60;

/// Parts of a file without variables.
const TESTS: [&str; 2] = ["/test", "/test_variables"];

#[derive(Clone)]
pub struct Document {
    pub file: PathBuf,
    pub value: Value,
    text: String,
    /// Where each line starts.
    lines: Vec<usize>,
    spots: HashMap<String, Spot>,
    /// By JSON pointer, what came from the environment.
    tainted: BTreeMap<String, Taint>,
    secrets: Secrets,
    /// JSON pointers of strings with variables in them, even if only defaults were taken.
    interpolated: BTreeSet<String>,
    /// JSON pointers of values that are not what they were meant to be: nothing more is said of them.
    broken: BTreeSet<String>,
    /// Lines with a syntax error, from 0.
    broken_lines: BTreeSet<usize>,
    /// False if some error hides the rest of the file.
    complete: bool,
    report: Report,
}

#[derive(Clone)]
struct Taint {
    /// What is printed for the value.
    shown: String,
    secrets: Secrets,
    /// The values themselves.
    values: Vec<String>,
}

/// What of a key and its value a problem is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    Key,
    Value,
}

impl Document {
    /// Reads a file and puts variables in.
    ///
    /// # Errors
    /// If it cannot be read at all.
    pub fn open(file: &Path, environment: &Environment) -> Result<Document, Located> {
        let unreadable = |message: String| Located { file: file.into(), place: None, message, help: None };
        let bytes =
            std::fs::read(file).map_err(|error| unreadable(format!("cannot read the file: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            unreadable(format!("the file is not UTF-8 (byte {})", error.utf8_error().valid_up_to()))
        })?;
        Ok(Document::read(file, text, environment))
    }

    /// The same for a text at hand.
    pub fn read(file: &Path, text: String, environment: &Environment) -> Document {
        let read = syntax::read(&text);
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut document = Document {
            file: file.into(),
            value: Value::Null,
            text,
            lines,
            spots: read.spots,
            tainted: BTreeMap::new(),
            secrets: Secrets::default(),
            interpolated: BTreeSet::new(),
            broken: BTreeSet::new(),
            broken_lines: BTreeSet::new(),
            complete: read.complete,
            report: Report::default(),
        };
        let mut errors = read.errors;
        errors.sort_by_key(|error| error.span.start);
        for error in errors {
            // A second error of a line is mostly the first one's doing.
            if document.broken_lines.insert(document.line(error.span.start)) {
                document.locate(Some(error.span), error.message, None);
            }
        }
        let mut value = read.value;
        document.interpolate(&mut value, "", environment);
        document.value = value;
        Redactor::global().add(&document.secrets);
        document
    }

    fn interpolate(&mut self, value: &mut Value, pointer: &str, environment: &Environment) {
        // What stands in tests is taken as it is: it is the same on every machine.
        if TESTS.contains(&pointer) {
            return;
        }
        match value {
            Value::Object(fields) => {
                for (key, field) in fields {
                    self.interpolate(field, &format!("{pointer}/{}", escape(key)), environment);
                }
            }
            Value::Array(elements) => {
                for (index, element) in elements.iter_mut().enumerate() {
                    self.interpolate(element, &format!("{pointer}/{index}"), environment);
                }
            }
            Value::String(text) => match interpolate(text, environment) {
                Ok(done) => {
                    if done.had_variable {
                        self.interpolated.insert(pointer.to_owned());
                    }
                    if !done.from.is_empty() {
                        self.taint(pointer, &done.text, &done.from);
                    }
                    *text = done.text;
                }
                Err(errors) => {
                    for error in errors {
                        let span = self.spots.get(pointer).map(|spot| spot.value.clone());
                        let written = error.written();
                        let exact = span.clone().and_then(|span| {
                            let start = span.start + self.text.get(span.clone())?.find(&written)?;
                            let end = start + written.len();
                            let closing = self.text[end..span.end].find('}').map_or(0, |brace| brace + 1);
                            Some(start..end + if written.ends_with('}') { 0 } else { closing })
                        });
                        self.locate(exact.or(span), error.to_string(), Some(error.help()));
                    }
                    self.broken.insert(pointer.to_owned());
                }
            },
            _ => {}
        }
    }

    fn taint(&mut self, pointer: &str, whole: &str, from: &[(String, String)]) {
        let mut names: Vec<&str> = from.iter().map(|(name, _)| name.as_str()).collect();
        names.dedup();
        let shown = names.iter().map(|name| format!("${{{name}}}")).collect::<Vec<_>>().join(", ");
        let shown = format!("(from {shown})");
        let mut secrets = Secrets::default();
        secrets.add(whole, &shown);
        for (name, value) in from {
            secrets.add(value, &format!("(from ${{{name}}})"));
        }
        self.secrets.extend(&secrets);
        let values = from.iter().map(|(_, value)| value.clone()).collect();
        self.tainted.insert(pointer.to_owned(), Taint { shown, secrets, values });
    }

    /// What is printed in place of a value that came from the environment and that `text`, which is
    /// about `pointer`, quotes a part of: a program that cannot be read is told by its next word,
    /// and that may be one of a secret. Only whole values are blanked out.
    pub fn quoted_in_part(&self, pointer: &str, text: &str) -> Option<&str> {
        let text = &self.hide(pointer, text);
        let near = |tainted: &str| is_within(pointer, tainted) || is_within(tainted, pointer);
        let quoted = |taint: &Taint| taint.values.iter().any(|value| has_part_of(text, value));
        let found = self.tainted.iter().find(|(at, taint)| near(at) && quoted(taint));
        found.map(|(_, taint)| taint.shown.as_str())
    }

    /// Whether this string had variables in it: then it may stand for a number, `true` or `false`.
    pub fn is_interpolated(&self, pointer: &str) -> bool {
        self.interpolated.contains(pointer)
    }

    /// Another form in which a value from the environment must not be printed.
    pub fn hide_also(&mut self, pointer: &str, form: &str) {
        if let Some(taint) = self.tainted.get_mut(pointer) {
            taint.secrets.add(form, &taint.shown);
            self.secrets.extend(&taint.secrets);
        }
    }

    /// What is printed in place of this value, if it came from the environment.
    pub fn variable_of(&self, pointer: &str) -> Option<&str> {
        self.tainted.get(pointer).map(|taint| taint.shown.as_str())
    }

    /// A value as a message may show it.
    pub fn show(&self, pointer: &str, value: &Value) -> String {
        if let Some(shown) = self.variable_of(pointer) {
            return shown.to_owned();
        }
        match value {
            Value::Object(_) => "a table".into(),
            Value::Array(_) => "a list".into(),
            Value::String(text) if text.chars().count() > SHOWN_CHARS => {
                let start: String = text.chars().take(SHOWN_CHARS).collect();
                format!("{start:?}...")
            }
            scalar => scalar.to_string(),
        }
    }

    /// Adds a problem whose texts hold no value but by [`Document::show`].
    pub fn problem(&mut self, pointer: &str, mark: Mark, message: impl Into<String>, help: Option<String>) {
        if !self.complete || self.broken.iter().any(|broken| is_within(pointer, broken)) {
            return;
        }
        let span = self.span(pointer, mark);
        if span.as_ref().is_some_and(|span| self.broken_lines.contains(&self.line(span.start))) {
            return;
        }
        self.locate(span, message.into(), help);
    }

    /// Adds a problem that was found by one who does not know what must not be printed. Its place
    /// is within the section at `section`.
    ///
    /// One who is not shown what is broken may think that it is missing: that is not told.
    pub fn foreign_problem(&mut self, section: &str, problem: Problem) {
        let pointer = format!("{section}{}", problem.at);
        if self.broken.iter().any(|broken| is_within(broken, &pointer)) {
            return;
        }
        let hidden = |text: &str| self.hide(&pointer, text);
        let (message, help) = (hidden(&problem.message), problem.help.as_deref().map(hidden));
        self.problem(&pointer, Mark::Value, message, help);
    }

    /// Adds a missing key, unless it is missing only because its line could not be read.
    pub fn missing(&mut self, section: &str, key: &str, message: String, help: String) {
        let line = |number: &usize| self.line_text(*number).trim_start().starts_with(key);
        if !self.broken_lines.iter().any(line) {
            self.problem(section, Mark::Value, message, Some(help));
        }
    }

    /// Says nothing more of this value.
    pub fn set_broken(&mut self, pointer: &str) {
        self.broken.insert(pointer.to_owned());
    }

    /// A value of the file without what is broken in it, where that stands in a table.
    pub fn without_broken(&self, at: &str, mut value: Value) -> Value {
        for broken in self.broken.iter().filter_map(|broken| broken.strip_prefix(at)) {
            leave_out(&mut value, broken);
        }
        value
    }

    fn hide(&self, pointer: &str, text: &str) -> String {
        let mut hidden = text.to_owned();
        for (tainted, taint) in &self.tainted {
            if is_within(pointer, tainted) || is_within(tainted, pointer) {
                hidden = taint.secrets.redact(&hidden, Short::Hidden).into_owned();
            }
        }
        self.secrets.redact(&hidden, Short::Shown).into_owned()
    }

    /// Where a value stands; what is not in the file stands where the table stands that lacks it.
    fn span(&self, pointer: &str, mark: Mark) -> Option<Range<usize>> {
        let mut nearest = pointer;
        loop {
            if let Some(spot) = self.spots.get(nearest) {
                return match &spot.key {
                    Some(key) if mark == Mark::Key && nearest == pointer => Some(key.clone()),
                    _ => Some(spot.value.clone()),
                };
            }
            nearest = nearest.rsplit_once('/')?.0;
        }
    }

    fn locate(&mut self, span: Option<Range<usize>>, message: String, help: Option<String>) {
        let place = span.map(|span| {
            let line = self.line(span.start);
            let source = self.line_text(line);
            let start = (span.start - self.lines[line]).min(source.len());
            let end = (span.end - self.lines[line]).clamp(start, source.len());
            Place {
                line: line + 1,
                column: source[..start].chars().count() + 1,
                width: source[start..end].chars().count().max(1),
                source: source.to_owned(),
            }
        });
        self.report.push(Located { file: self.file.clone(), place, message, help });
    }

    /// Number of the line of a byte, from 0.
    fn line(&self, position: usize) -> usize {
        self.lines.partition_point(|start| *start <= position) - 1
    }

    fn line_text(&self, line: usize) -> &str {
        let end = self.lines.get(line + 1).map_or(self.text.len(), |next| next - 1);
        self.text[self.lines[line]..end].trim_end_matches('\r')
    }

    pub fn has_problems(&self) -> bool {
        !self.report.is_empty()
    }

    pub fn into_report(self) -> Report {
        self.report
    }
}

/// Characters of a value that are a part of it: fewer stand in many words.
const PART_CHARS: usize = 3;

fn has_part_of(text: &str, value: &str) -> bool {
    let value: Vec<char> = value.chars().collect();
    let is_one_word = |part: &&[char]| !part.iter().any(|c| c.is_whitespace());
    value.windows(PART_CHARS).filter(is_one_word).any(|part| text.contains(&String::from_iter(part)))
}

/// Whether a value is this one or in it.
fn is_within(pointer: &str, of: &str) -> bool {
    pointer.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        let environment = Environment::given(&[("PASSWORD", "geheim!"), ("N", "5")]);
        Document::read(Path::new("p.toml"), text.to_owned(), &environment)
    }

    fn places(document: Document) -> Vec<(usize, usize, String)> {
        let report = document.into_report();
        let place = |p: &Located| p.place.clone().map_or((0, 0), |place| (place.line, place.column));
        report.problems().iter().map(|p| (place(p).0, place(p).1, p.message.clone())).collect()
    }

    #[test]
    fn unset_variables_are_told_at_their_place() {
        let document = document("a = 1\nb = { c = [\"x ${ONE} ${TWO}\"] }\n");
        assert_eq!(
            places(document),
            [(2, 15, "variable `ONE` is not set".into()), (2, 22, "variable `TWO` is not set".into())]
        );
    }

    #[test]
    fn what_came_from_a_variable_is_not_shown() {
        let mut document = document("a = { url = 'http://${PASSWORD}@h', n = '${N}' }\nb = 'geheim!'\n");
        let url = document.value["a"]["url"].clone();
        assert_eq!(url, "http://geheim!@h");
        assert_eq!(document.show("/a/url", &url), "(from ${PASSWORD})");
        document.foreign_problem("/a", Problem::new("/url", "geheim! is bad").help("not \"geheim!\""));
        document.foreign_problem("/a", Problem::new("", "5 of 15 are bad"));
        document.foreign_problem("/b", Problem::new("", "5 is shown, geheim! not"));
        let report = document.into_report();
        let messages: Vec<&str> = report.problems().iter().map(|p| p.message.as_str()).collect();
        assert_eq!(
            messages,
            ["(from ${N}) of 15 are bad", "(from ${PASSWORD}) is bad", "5 is shown, (from ${PASSWORD}) not"]
        );
        assert_eq!(report.problems()[1].help.as_deref(), Some("not \"(from ${PASSWORD})\""));
    }

    #[test]
    fn nothing_more_is_said_of_what_is_broken() {
        let mut document = document("a = \"${NO}\"\nb = \"x\nc = 1\n");
        document.problem("/a", Mark::Value, "must be a number", None);
        document.problem("/b", Mark::Value, "must be a number", None);
        document.missing("", "b", "missing".into(), "add it".into());
        document.problem("/c", Mark::Key, "unknown key", None);
        let places = places(document);
        let lines: Vec<usize> = places.iter().map(|(line, ..)| *line).collect();
        assert_eq!(lines, [1, 2, 3], "{places:?}");
    }
}
