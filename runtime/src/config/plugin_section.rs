//! `[[plugin]]`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::assemble::Folders;
use super::document::{Document, Mark};
use super::parse::escape;
use super::problem::Problem;
use super::sections;
use super::units::{ByteSize, Interval};
use super::validate::Section;
use crate::plugin::{Grants, HttpServer, Limits, PluginCode, PluginSpec, Reload, ShadowSpec};

/// Keys of every plugin.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub struct PluginKeys {
    /// A built-in plugin, by its name.
    #[serde(rename = "use")]
    pub built_in: Option<String>,
    /// A plugin of one's own: a WebAssembly file, relative to this file.
    pub wasm: Option<PathBuf>,
    /// What this step is called in metrics and dead letters.
    pub name: Option<String>,
    /// What the plugin itself is told. A `{ file = "..." }` anywhere in it is replaced by the
    /// content of that file, relative to this file.
    pub config: Map<String, Value>,
    /// What the plugin may use.
    pub limits: Limits,
    /// What the plugin may reach; nothing by default.
    pub grants: Grants,
    /// The SHA-256 that the file must have, in hex.
    pub sha256: Option<String>,
    /// When a pipeline that runs takes a new version of the plugin.
    pub reload: Reload,
    /// A candidate that runs beside the plugin on a share of its batches: what it makes of them is
    /// compared and counted, and goes nowhere. A WebAssembly file, or a table.
    pub shadow: Option<ShadowKey>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ShadowKey {
    /// Its WebAssembly file, relative to this file.
    Wasm(PathBuf),
    Table(ShadowKeys),
}

/// A candidate.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShadowKeys {
    /// Its WebAssembly file, relative to this file.
    pub wasm: PathBuf,
    /// Share of the batches that it has too.
    #[serde(default = "share_default")]
    #[schemars(range(min = 0, max = 1))]
    pub share: f64,
    /// What it is told; by default what the plugin is told.
    pub config: Option<Map<String, Value>>,
}

fn share_default() -> f64 {
    0.1
}

/// A `[[plugin]]`, the first of which has the number 0. Its step has the name of the plugin.
pub fn plugin(
    document: &mut Document,
    folders: &Folders,
    number: usize,
    mut value: Value,
) -> Option<PluginSpec> {
    let at = format!("/plugin/{number}");
    for of in ["/config", "/shadow/config"] {
        for (key, field) in value.pointer_mut(of).and_then(Value::as_object_mut).into_iter().flatten() {
            put_files_in(document, &folders.base, field, &format!("{at}{of}/{}", escape(key)));
        }
    }
    let section = Section { at: &at, label: "[[plugin]]", example: "" };
    let keys: PluginKeys = sections::read(document, section, value)?;
    if keys.built_in.is_none() && keys.wasm.is_none() {
        let help = "add: use = \"...\" for a built-in one, or wasm = \"path.wasm\" for one's own";
        document.missing(&at, "use", "it is not said which plugin this is".into(), help.into());
    }
    let problems = check(&keys, folders);
    let is_fine = problems.is_empty();
    for problem in problems {
        document.foreign_problem(&at, problem);
    }
    let (step, code) = match (keys.built_in, keys.wasm) {
        (Some(name), None) => (name.clone(), PluginCode::BuiltIn(name)),
        (None, Some(path)) => {
            let step = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (step, PluginCode::File(folders.base.join(path)))
        }
        _ => return None,
    };
    let mut grants = keys.grants;
    for table in grants.lookup.values_mut() {
        table.file = folders.base.join(&table.file);
    }
    if folders.is_for_tests {
        grants.http.values_mut().for_each(lead_nowhere);
    }
    let mut spec = PluginSpec {
        step,
        code,
        config: Value::Object(keys.config),
        limits: keys.limits,
        grants,
        sha256: keys.sha256,
        reload: keys.reload,
        shadow: None,
    };
    spec.shadow = keys.shadow.map(|shadow| shadow_of(&spec, shadow, folders));
    is_fine.then_some(spec)
}

fn shadow_of(plugin: &PluginSpec, shadow: ShadowKey, folders: &Folders) -> ShadowSpec {
    let ShadowKeys { wasm, share, config } = shadow.keys();
    let has_config = config.is_some();
    let candidate = PluginSpec {
        // With the name of the step, which is not settled yet.
        step: String::new(),
        code: PluginCode::File(folders.base.join(wasm)),
        config: config.map_or_else(|| plugin.config.clone(), Value::Object),
        limits: plugin.limits.clone(),
        // What it does must have no effect: no state, no requests.
        grants: Grants {
            lookup: plugin.grants.lookup.clone(),
            clock: plugin.grants.clock,
            random: plugin.grants.random,
            metrics: plugin.grants.metrics,
            ..Grants::default()
        },
        sha256: None,
        reload: plugin.reload,
        shadow: None,
    };
    ShadowSpec { plugin: Box::new(candidate), share, has_config }
}

impl ShadowKey {
    fn keys(self) -> ShadowKeys {
        match self {
            ShadowKey::Wasm(wasm) => ShadowKeys { wasm, share: share_default(), config: None },
            ShadowKey::Table(keys) => keys,
        }
    }

    /// Its file, with the place of it.
    fn wasm(&self) -> (&'static str, &Path) {
        match self {
            ShadowKey::Wasm(wasm) => ("/shadow", wasm),
            ShadowKey::Table(keys) => ("/shadow/wasm", &keys.wasm),
        }
    }
}

/// Nothing can listen on port 0: in a test a server that is granted cannot be reached.
fn lead_nowhere(server: &mut HttpServer) {
    if let Ok(url) = reqwest::Url::parse(&server.url)
        && matches!(url.scheme(), "http" | "https")
        && url.query().is_none()
    {
        server.url = format!("http://127.0.0.1:0{}", url.path());
    }
}

fn check(keys: &PluginKeys, folders: &Folders) -> Vec<Problem> {
    let mut problems = Vec::new();
    match (&keys.built_in, &keys.wasm) {
        (Some(_), Some(_)) => {
            problems.push(
                Problem::new("/wasm", "a plugin is built in or a file, not both")
                    .help("remove `use` or `wasm`"),
            );
        }
        (None, Some(path)) if !folders.base.join(path).is_file() => {
            problems.push(Problem::new("/wasm", format!("there is no file {}", path.display())));
        }
        _ => {}
    }
    if let Some((at, path)) = keys.shadow.as_ref().map(ShadowKey::wasm)
        && !folders.base.join(path).is_file()
    {
        problems.push(Problem::new(at, format!("there is no file {}", path.display())));
    }
    if let Some(ShadowKey::Table(ShadowKeys { share: 0.0, .. })) = keys.shadow {
        let problem = Problem::new("/shadow/share", "a share of nothing compares nothing");
        problems.push(problem.help("more than 0, or no `shadow`"));
    }
    let is_digest = |text: &String| text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit());
    if keys.sha256.as_ref().is_some_and(|digest| !is_digest(digest)) {
        problems.push(Problem::new("/sha256", "a SHA-256 has 64 hex digits"));
    }
    let limits = &keys.limits;
    for (name, limit) in [("memory", limits.memory), ("output", limits.output), ("file", limits.file)] {
        if limit == ByteSize(0) {
            problems.push(Problem::new(format!("/limits/{name}"), format!("`{name}` must be more than 0")));
        }
    }
    for (name, limit) in [("timeout", limits.timeout), ("compile", limits.compile)] {
        if limit < Interval::millis(1) {
            problems.push(Problem::new(format!("/limits/{name}"), format!("`{name}` must be at least 1ms")));
        }
    }
    problems
}

/// Replaces every `{ file = "..." }` by the content of the file.
pub fn put_files_in(document: &mut Document, base: &Path, value: &mut Value, at: &str) {
    match value {
        Value::Object(fields) => {
            if let (1, Some(Value::String(path))) = (fields.len(), fields.get("file")) {
                match read_text(&base.join(path)) {
                    Ok(text) => *value = Value::String(text),
                    Err(reason) => {
                        let at = format!("{at}/file");
                        let shown = document.show(&at, &fields["file"]);
                        document.problem(&at, Mark::Value, format!("cannot read {shown}: {reason}"), None);
                        document.set_broken(&at);
                    }
                }
                return;
            }
            for (key, field) in fields {
                put_files_in(document, base, field, &format!("{at}/{}", escape(key)));
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter_mut().enumerate() {
                put_files_in(document, base, element, &format!("{at}/{index}"));
            }
        }
        _ => {}
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    // A pipe or a device may never end.
    if path.exists() && !path.is_file() {
        return Err("it is not a regular file".into());
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".into())
}
