//! What is wrong with a program, for people: one mistake a line, with its place.

use jaq_core::compile;
use jaq_core::load::{self, lex, parse, span};

use crate::json::shorten;

/// Mistakes of reading the program.
pub fn reading(code: &str, errors: load::Errors<&str, ()>) -> String {
    let mut lines = Vec::new();
    for (_, error) in errors {
        match error {
            load::Error::Io(errors) => lines.extend(
                errors
                    .into_iter()
                    .map(|(path, why)| format!("{}: cannot import {path:?}: {why}", place(code, path))),
            ),
            load::Error::Lex(errors) => lines.extend(errors.into_iter().map(lex_line(code))),
            load::Error::Parse(errors) => lines.extend(errors.into_iter().map(parse_line(code))),
        }
    }
    lines.join("\n")
}

/// Names the program uses that nothing defines.
pub fn naming(code: &str, errors: compile::Errors<&str, ()>) -> String {
    let lines = errors.into_iter().flat_map(|(_, errors)| errors);
    let lines = lines.map(|(name, kind)| {
        let arity = match kind {
            compile::Undefined::Filter(arity) if arity > 0 => format!("/{arity}"),
            _ => String::new(),
        };
        format!("{}: undefined {} {name}{arity}", place(code, name), kind.as_str())
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn lex_line<'a>(code: &'a str) -> impl Fn(lex::Error<&'a str>) -> String {
    move |(expected, found)| line(code, expected.as_str(), found)
}

fn parse_line<'a>(code: &'a str) -> impl Fn(parse::Error<&'a str>) -> String {
    move |(expected, found)| line(code, expected.as_str(), found)
}

fn line(code: &str, expected: &str, found: &str) -> String {
    let found_text = match found {
        "" => "the end".to_owned(),
        found => format!("{:?}", found.lines().next().map(shorten).unwrap_or_default()),
    };
    format!("{}: expected {expected}, found {found_text}", place(code, found))
}

/// `part` must be a slice of `code`.
fn place(code: &str, part: &str) -> String {
    let before = &code[..span(code, part).start];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("line {line}, column {column}")
}
