//! A compiled jq program, and what it makes of one JSON text.

use std::rc::{Rc, Weak};

use jaq_core::data::HasLut;
use jaq_core::load::{self, Arena, File, Loader};
use jaq_core::native::{bome, v};
use jaq_core::{Compiler, Ctx, DataT, Lut, RunPtr, Vars};
use jaq_json::{Map, Val, read};

use millstream_sdk::log;

use crate::{json, mistakes};

/// What a program can ask for besides the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    Key,
    Headers,
    Timestamp,
    Source,
    /// jq's `$ENV`, here always empty
    Environment,
}

const VARIABLES: [(&str, Variable); 5] = [
    ("$key", Variable::Key),
    ("$headers", Variable::Headers),
    ("$timestamp", Variable::Timestamp),
    ("$source", Variable::Source),
    ("$ENV", Variable::Environment),
];

/// Definitions and functions of the standard library that reach for the process, its clock,
/// its environment or its time zone. What a sandbox can have of them stands in `own_functions`
/// and `OWN_DEFINITIONS`; `halt` has no meaning for one message of many.
const REPLACED: [&str; 10] = [
    "now",
    "env",
    "debug_empty",
    "stderr_empty",
    "localtime",
    "strflocaltime",
    "halt",
    "halt_error",
    "input",
    "inputs",
];

const OWN_DEFINITIONS: &str = "def localtime: gmtime; def strflocaltime(f): strftime(f);";

/// The types a program works on, for the interpreter.
struct Kind;

impl DataT for Kind {
    type V<'a> = Val;
    type Data<'a> = Data<'a>;
}

#[derive(Clone, Copy)]
struct Data<'a> {
    lut: &'a Lut<Kind>,
    now_ms: u64,
}

impl<'a> HasLut<'a, Kind> for Data<'a> {
    fn lut(&self) -> &'a Lut<Kind> {
        self.lut
    }
}

pub struct Program {
    filter: jaq_core::Filter<Kind>,
    variables: Vec<Variable>,
}

/// One value that came out.
#[derive(Debug, PartialEq)]
pub enum Value {
    /// the payload itself, untouched
    Same,
    /// compact JSON text
    Json(Vec<u8>),
}

#[derive(Debug, PartialEq)]
pub enum Error {
    /// the payload is not JSON: why
    NotJson(String),
    /// the program ended with an error: which
    Program(String),
}

impl Program {
    /// Compiles `code`. The error tells every mistake with line and column, one a line.
    pub fn compile(code: &str) -> Result<Self, String> {
        let arena = Arena::default();
        let modules = Loader::new(definitions())
            .load(&arena, File { code, path: () })
            .map_err(|errors| mistakes::reading(code, errors))?;
        load::import(&modules, |_| Err("a plugin reads no files".to_owned()))
            .map_err(|errors| mistakes::reading(code, errors))?;

        // A name in a string or a comment counts too: the variable is then built for nothing.
        let used = VARIABLES.iter().filter(|(name, _)| code.contains(name));
        let (names, variables): (Vec<_>, Vec<_>) = used.copied().unzip();
        let filter = Compiler::default()
            .with_funs(functions())
            .with_global_vars(names)
            .compile(modules)
            .map_err(|errors| mistakes::naming(code, errors))?;
        Ok(Self { filter, variables })
    }

    /// Runs the program on `payload`, JSON text; no payload at all is `null`. `now_ms` are
    /// milliseconds since 1970; `variable` is asked once for each variable the program names.
    /// More than `max_outputs` values are an error.
    pub fn run(
        &self,
        payload: Option<&[u8]>,
        now_ms: u64,
        max_outputs: usize,
        variable: impl FnMut(Variable) -> Val,
    ) -> Result<Vec<Value>, Error> {
        let input = match payload {
            Some(text) => {
                json::check(text).map_err(Error::NotJson)?;
                read::parse_single(text).map_err(|e| Error::NotJson(e.to_string()))?
            }
            None => Val::Null,
        };
        let original = Original::of(&input);
        let vars = Vars::new(self.variables.iter().copied().map(variable));
        let lut = &self.filter.lut;
        let context = Ctx::<Kind>::new(Data { lut, now_ms }, vars);

        let mut outputs = Vec::new();
        for result in self.filter.id.run((context, input)) {
            let value = match result {
                Ok(value) => value,
                Err(exception) => return Err(Error::Program(exception_text(exception))),
            };
            if outputs.len() == max_outputs {
                return Err(Error::Program(format!(
                    "more than {max_outputs} outputs for one message; raise `max_outputs`"
                )));
            }
            outputs.push(if original.is(&value) {
                Value::Same
            } else {
                Value::Json(json::write(&value).map_err(Error::Program)?)
            });
        }
        Ok(outputs)
    }
}

fn exception_text(exception: jaq_core::Exn<'_, Val>) -> String {
    match exception.get_err() {
        Ok(error) => json::shorten(&error.to_string()),
        Err(_) => "the program broke off outside of any label".to_owned(),
    }
}

/// Recognises the input among the outputs. A weak reference does it: whoever changes the value
/// moves or copies it away from here.
enum Original {
    Null,
    Arr(Weak<Vec<Val>>),
    Obj(Weak<Map>),
    Scalar,
}

impl Original {
    fn of(value: &Val) -> Self {
        match value {
            Val::Null => Self::Null,
            Val::Arr(array) => Self::Arr(Rc::downgrade(array)),
            Val::Obj(object) => Self::Obj(Rc::downgrade(object)),
            _ => Self::Scalar,
        }
    }

    fn is(&self, value: &Val) -> bool {
        match (self, value) {
            (Self::Null, Val::Null) => true,
            (Self::Arr(this), Val::Arr(that)) => std::ptr::eq(this.as_ptr(), Rc::as_ptr(that)),
            (Self::Obj(this), Val::Obj(that)) => std::ptr::eq(this.as_ptr(), Rc::as_ptr(that)),
            _ => false,
        }
    }
}

fn definitions() -> impl Iterator<Item = load::parse::Def<&'static str>> {
    let library = jaq_core::defs()
        .chain(jaq_std::defs())
        .chain(jaq_json::defs())
        .filter(|definition| !REPLACED.contains(&definition.name));
    let own = load::parse(OWN_DEFINITIONS, |parser| parser.defs()).unwrap_or_default();
    library.chain(own)
}

fn functions() -> impl Iterator<Item = jaq_core::native::Fun<Kind>> {
    let library = jaq_core::funs()
        .chain(jaq_std::funs())
        .chain(jaq_json::funs())
        .filter(|(name, ..)| !REPLACED.contains(name));
    library.chain(own_functions().into_iter().map(jaq_core::native::run::<Kind>))
}

fn own_functions() -> [jaq_core::native::Filter<RunPtr<Kind>>; 4] {
    [
        ("now", v(0), |cv| bome(Ok(Val::from(cv.0.data().now_ms as f64 / 1000.0)))),
        ("env", v(0), |_| bome(Ok(Val::obj(Map::default())))),
        ("debug_empty", v(0), |cv| {
            log::debug(&cv.1);
            Box::new(std::iter::empty())
        }),
        ("stderr_empty", v(0), |cv| {
            log::warn(&cv.1);
            Box::new(std::iter::empty())
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(code: &str, payload: &str) -> Result<Vec<String>, Error> {
        let program = Program::compile(code).unwrap();
        let outputs = program.run(Some(payload.as_bytes()), 1_700_000_000_250, 100, |variable| {
            Val::from(format!("{variable:?}"))
        })?;
        Ok(outputs
            .into_iter()
            .map(|output| match output {
                Value::Same => "same".into(),
                Value::Json(text) => String::from_utf8(text).unwrap(),
            })
            .collect())
    }

    fn outputs<const N: usize>(texts: [&str; N]) -> Result<Vec<String>, Error> {
        Ok(texts.map(str::to_owned).to_vec())
    }

    #[test]
    fn zero_one_and_many_outputs() {
        let payload = r#"{"a": 1, "items": [{"id": 1}, {"id": 2}]}"#;
        assert_eq!(run("select(.a == 2)", payload), outputs([]));
        assert_eq!(run("{a, n: (.items | length)}", payload), outputs([r#"{"a":1,"n":2}"#]));
        assert_eq!(run(".items[]", payload), outputs([r#"{"id":1}"#, r#"{"id":2}"#]));
    }

    #[test]
    fn an_untouched_value_is_the_same() {
        let payload = r#"{"a": 1, "b": {"c": 2}}"#;
        assert_eq!(run("select(.a == 1)", payload), outputs(["same"]));
        assert_eq!(run("., .b", payload), outputs(["same", r#"{"c":2}"#]));
        assert_eq!(run("[1] | .", "[ 1 ]"), outputs(["[1]"]));
        assert_eq!(run(".", "[ 1 ]"), outputs(["same"]));
        for change in [".a = 1", ".b.c = 2", "del(.z)", "map_values(.)", ". + {}"] {
            let text = r#"{"a":1,"b":{"c":2}}"#;
            assert_eq!(run(change, payload), outputs([text]), "{change}");
        }
        assert_eq!(run(". as $before | .a = 9 | $before", payload), outputs(["same"]));
    }

    #[test]
    fn no_payload_is_null() {
        let program = Program::compile(".").unwrap();
        let result = program.run(None, 0, 1, |_| Val::Null);
        assert_eq!(result, Ok(vec![Value::Same]));
    }

    #[test]
    fn the_sandbox_has_a_clock_but_no_environment() {
        assert_eq!(run("now", "0"), outputs(["1700000000.25"]));
        assert_eq!(run("now | todate", "0"), outputs(["\"2023-11-14T22:13:20.25Z\""]));
        assert_eq!(run("env", "0"), outputs(["{}"]));
        assert_eq!(run("0 | localtime | mktime", "0"), outputs(["0"]));
        assert_eq!(run("0 | strflocaltime(\"%H\")", "0"), outputs(["\"00\""]));
        for name in ["input", "inputs", "halt", "halt_error", "input_filename"] {
            let error = Program::compile(name).err().unwrap();
            assert!(error.contains("undefined filter"), "{name}: {error}");
        }
    }

    #[test]
    fn variables_are_asked_for_only_when_named() {
        assert_eq!(
            run("[$source, $headers, $key, $timestamp]", "0"),
            outputs([r#"["Source","Headers","Key","Timestamp"]"#])
        );
        let program = Program::compile("$key").unwrap();
        assert_eq!(program.variables, [Variable::Key]);
    }

    #[test]
    fn the_standard_library_is_whole() {
        let payload = r#"{"s": "a-b", "t": "2024-02-29T00:00:00Z"}"#;
        assert_eq!(run(".s | test(\"^A\"; \"i\")", payload), outputs(["true"]));
        assert_eq!(run(".s | gsub(\"-\"; \"+\")", payload), outputs(["\"a+b\""]));
        assert_eq!(run(".t | fromdate", payload), outputs(["1709164800"]));
        assert_eq!(run(".s | @base64 | ., @base64d", payload), outputs(["\"YS1i\"", "\"a-b\""]));
        assert_eq!(run("pow(2; 10) | floor", payload), outputs(["1024"]));
        assert_eq!(run("[limit(3; repeat(1))]", payload), outputs(["[1,1,1]"]));
    }

    #[test]
    fn integers_stay_exact() {
        assert_eq!(run(".[0] + 1, .[1]", "[9007199254740993, 1.10]"), outputs(["9007199254740994", "1.10"]));
        assert_eq!(run("4000000000 * 4000000000", "0"), outputs(["16000000000000000000"]));
    }

    #[test]
    fn failures_say_why() {
        let failure = |code: &str, payload: &str| match run(code, payload).unwrap_err() {
            Error::Program(text) => text,
            Error::NotJson(text) => format!("not json: {text}"),
        };
        assert_eq!(failure(".a.b", r#"{"a": "x"}"#), r#"cannot index "x" with "b""#);
        assert_eq!(failure("error(\"no\")", "0"), "\"no\"");
        assert!(failure(".", "{a:1}").starts_with("not json: "));
        assert!(failure("repeat(1)", "0").contains("more than 100 outputs"));
        assert!(failure("nan", "0").contains("NaN"));
        // An error after an output takes the output back.
        assert!(run("1, error(2)", "0").is_err());
        assert!(failure("error(\"x\" * 1000)", "0").len() < 400);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let mistakes = |code: &str| Program::compile(code).err().unwrap();
        assert_eq!(
            mistakes(".a |\n  foo(1) | $bar"),
            "line 2, column 3: undefined filter foo/1\nline 2, column 12: undefined variable $bar"
        );
        assert_eq!(mistakes("(.a"), "line 1, column 4: expected closing parenthesis, found the end");
        assert_eq!(mistakes(".a | "), "line 1, column 6: expected term, found the end");
        assert_eq!(mistakes("é | ]"), "line 1, column 1: expected token, found \"é | ]\"");
        assert_eq!(
            mistakes("include \"x\"; ."),
            "line 1, column 10: cannot import \"x\": module loading not supported"
        );
        assert!(mistakes("import \"x\" as $x; .").contains("a plugin reads no files"));
    }
}
