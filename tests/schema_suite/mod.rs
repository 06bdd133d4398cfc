//! The official test suite of JSON Schema, natively and through `validate-schema` in the sandbox: each
//! verdict is that of the suite, but for those in `EXCEPTIONS`, and both say the same in the same words.

mod install;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use millstream::message::{BatchBuilder, Message, Position};
use millstream::observe::metrics::Metrics;
use millstream::plugin::{
    EngineSettings, FateVerdict, Grants, Limits, PluginCode, PluginEngine, PluginScope, PluginSpec, Reload,
};
use millstream::state::States;
use millstream_schema::{Check, Config};
use serde_json::{Value, json};

use crate::support::guest;

/// Folders of the suite, and the draft that their schemas are read by.
const DRAFTS: [(&str, &str); 5] = [
    ("draft4", "4"),
    ("draft6", "6"),
    ("draft7", "7"),
    ("draft2019-09", "2019-09"),
    ("draft2020-12", "2020-12"),
];

/// What the suite says and the validator does not do. Without a case it would be the schema that cannot
/// be used. A meta-schema of one's own is read as its draft is, with all of its vocabularies.
const EXCEPTIONS: &[Exception] = &[
    Exception {
        file: "draft2019-09/vocabulary.json",
        schema: "schema that uses custom metaschema with with no validation vocabulary",
        case: "no validation: invalid number, but it still validates",
    },
    Exception {
        file: "draft2020-12/vocabulary.json",
        schema: "schema that uses custom metaschema with with no validation vocabulary",
        case: "no validation: invalid number, but it still validates",
    },
];

/// Formats that the validator does not know, as they would take tables of Unicode: whatever there is
/// fits them.
const UNKNOWN_FORMATS: [&str; 2] = ["optional/format/idn-email.json", "optional/format/idn-hostname.json"];

struct Exception {
    file: &'static str,
    schema: &'static str,
    case: &'static str,
}

/// A schema of the suite, with its cases.
struct Group {
    file: String,
    draft: &'static str,
    schema: String,
    config: Value,
    cases: Vec<Case>,
}

struct Case {
    name: String,
    payload: Vec<u8>,
    is_valid: bool,
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of the suite");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    paths.sort();
    let json = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    paths
        .into_iter()
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .filter(json)
        .collect()
}

fn read(file: &Path) -> Value {
    let text = std::fs::read_to_string(file).expect("a file of the suite");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn name(file: &Path, folder: &Path) -> String {
    file.strip_prefix(folder).expect("it is in the folder").to_str().expect("it is ASCII").to_owned()
}

/// All groups of all drafts. What the suite has at an address of its own is given as a reference.
fn groups(suite: &Path) -> Vec<Group> {
    let remotes = suite.join("remotes");
    let address = |file: &PathBuf| format!("http://localhost:1234/{}", name(file, &remotes));
    let references: BTreeMap<String, Value> =
        files(&remotes).iter().map(|file| (address(file), read(file))).collect();
    let tests = suite.join("tests");
    let mut groups = Vec::new();
    for (folder, draft) in DRAFTS {
        for path in files(&tests.join(folder)) {
            let file = name(&path, &tests);
            let Value::Array(all) = read(&path) else { panic!("{file} is no list") };
            groups.extend(all.into_iter().map(|group| {
                let needs_others = group["schema"].to_string().contains("http://localhost:1234/");
                let none = BTreeMap::new();
                let config = json!({
                    "schema": group["schema"],
                    "draft": draft,
                    // Required cases say that a format asserts nothing by itself.
                    "formats": file.contains("/optional/"),
                    "references": if needs_others { &references } else { &none },
                });
                let is_unknown = UNKNOWN_FORMATS.iter().any(|unknown| file.ends_with(unknown));
                let case = |case: &Value| Case {
                    name: case["description"].as_str().expect("a case has a name").to_owned(),
                    payload: case["data"].to_string().into_bytes(),
                    is_valid: case["valid"].as_bool().expect("a case has a verdict") || is_unknown,
                };
                let cases = group["tests"].as_array().expect("a group has cases").iter().map(case).collect();
                let schema = group["description"].as_str().expect("a group has a name").to_owned();
                Group { file: file.clone(), draft, schema, config, cases }
            }));
        }
    }
    groups
}

/// What becomes of each payload: `None` if it passes, otherwise code and reason. An error if the schema
/// cannot be used.
type Verdicts = Result<Vec<Option<(String, String)>>, String>;

fn natively(group: &Group) -> Verdicts {
    let config: Config = serde_json::from_value(group.config.clone()).expect("a configuration");
    let check = Check::new(config).map_err(|mistake| mistake.message)?;
    let verdict =
        |case: &Case| check.check(Some(&case.payload)).err().map(|no| (no.code.to_owned(), no.reason));
    Ok(group.cases.iter().map(verdict).collect())
}

/// All cases of a group in one call.
fn in_the_sandbox(engine: &PluginEngine, metrics: &Metrics, group: &Group) -> Verdicts {
    let spec = PluginSpec {
        step: "validate-schema".to_owned(),
        code: PluginCode::File(guest("validate-schema")),
        config: group.config.clone(),
        limits: Limits::default(),
        grants: Grants::default(),
        sha256: None,
        reload: Reload::default(),
        shadow: None,
    };
    let plugin = engine.check(&spec).map_err(|error| error.problems[0].message.clone())?;
    let scope = PluginScope {
        pipeline: "suite".into(),
        source: "suite".into(),
        metrics: metrics.plugin("suite", "validate-schema"),
        states: States::in_memory(),
        determined: None,
    };
    let mut instance = plugin.instantiate(scope).expect("it starts");
    let mut batch = BatchBuilder::new();
    for case in &group.cases {
        let message = Message { payload: Some(case.payload.clone()), ..Message::default() };
        batch.push_message(&message, Position::default());
    }
    let processed = instance.process(batch.finish(), 0).expect("it goes on");
    let mut verdicts = vec![None; group.cases.len()];
    for fate in processed.fates {
        verdicts[fate.parent as usize] = Some(match fate.verdict {
            FateVerdict::Rejected { code, reason } => (code, reason),
            other => panic!("{}: {}: {other:?}", group.file, group.cases[fate.parent as usize].name),
        });
    }
    Ok(verdicts)
}

/// Cases of a group of which the verdict is not that of the suite; one without a name if the schema
/// cannot be used.
fn failures(group: &Group, verdicts: &Verdicts) -> Vec<String> {
    let Ok(verdicts) = verdicts else { return vec![String::new()] };
    let of = group.cases.iter().zip(verdicts);
    of.filter(|(case, verdict)| case.is_valid != verdict.is_none())
        .map(|(case, _)| case.name.clone())
        .collect()
}

#[test]
fn every_verdict_is_that_of_the_official_suite_natively_and_in_the_sandbox() {
    let groups = groups(&install::suite());
    let cases: usize = groups.iter().map(|group| group.cases.len()).sum();
    assert!(groups.len() > 1_500 && cases > 7_000, "{cases} cases of {} schemas", groups.len());
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schema-suite");
    let settings = EngineSettings { cache_dir: cache, compiler: None, source_lines: false };
    let engine = PluginEngine::new(settings).expect("an engine");
    let metrics = Metrics::new();

    let next = AtomicUsize::new(0);
    let work = || {
        let mut unexpected = Vec::new();
        let mut met = Vec::new();
        while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (native, sandboxed) = (natively(group), in_the_sandbox(&engine, &metrics, group));
            let Group { file, draft, schema, .. } = group;
            assert_eq!(native, sandboxed, "{file} ({draft}): {schema}: natively and in the sandbox");
            for case in failures(group, &native) {
                let is_it =
                    |known: &Exception| known.file == file && known.schema == schema && known.case == case;
                match EXCEPTIONS.iter().position(is_it) {
                    Some(known) => met.push(known),
                    None => unexpected.push(format!("{file} | {schema} | {case} | {native:?}")),
                }
            }
        }
        (unexpected, met)
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut unexpected, mut met) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let (more_unexpected, more_met) = thread.join().expect("a worker ends");
            unexpected.extend(more_unexpected);
            met.extend(more_met);
        }
    });
    assert!(unexpected.is_empty(), "not as the suite says:\n{}", unexpected.join("\n"));
    let passed: Vec<&str> = (EXCEPTIONS.iter().enumerate())
        .filter(|(number, _)| !met.contains(number))
        .map(|(_, exception)| exception.case)
        .collect();
    assert!(passed.is_empty(), "these are no exceptions any more: {passed:?}");
}
