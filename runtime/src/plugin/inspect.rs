//! Looking at a plugin's file without configuring it.

use std::sync::Arc;

use wasmtime::component::types::ComponentItem;

use super::bindings::{CONTRACT, Description, PROCESSOR, Reads};
use super::component::{Code, Loaded};
use super::engine::PluginEngine;
use super::fault::fault_of;
use super::instance::{START_OUTPUT, START_TIME, start_store};
use super::{Limits, LoadError, PluginCode};
use crate::config::problem::Problem;

/// What a plugin says of itself, and what its file says.
#[derive(Clone, Debug)]
pub struct Inspection {
    pub name: String,
    pub version: String,
    pub summary: String,
    /// Version of the plugin contract that it was built for.
    pub contract: String,
    /// Columns of a message that it wants to see.
    pub reads: Vec<&'static str>,
    /// JSON Schema of its configuration.
    pub config_schema: String,
    /// What it wants of the host, and what that means.
    pub imports: Vec<(String, &'static str)>,
    pub bytes: u64,
    /// Of the file as it is, in hex.
    pub sha256: String,
}

/// Loads a plugin and asks it to describe itself. It is not configured.
///
/// # Errors
/// Why this host does not load it, and what to do.
pub fn inspect(engine: &PluginEngine, code: &PluginCode) -> Result<Inspection, LoadError> {
    let step = match code {
        PluginCode::BuiltIn(name) => name.clone(),
        PluginCode::File(file) => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let failed = |problem| LoadError { step: step.clone(), problems: vec![problem] };
    let told = |(message, help): (String, String)| Problem::new("/wasm", message).help(help);
    let limits = Limits::default();
    let code = Code::of(code, limits.file).map_err(|wrong| failed(told(wrong)))?;
    let loaded = engine.load_code(&code, limits.compile).map_err(|wrong| failed(told(wrong)))?;
    let description = describe(engine, &loaded).map_err(|message| failed(Problem::new("/wasm", message)))?;
    let types = loaded.component.engine();
    let component = loaded.component.component_type();
    let exports: Vec<&str> = component.exports(types).map(|(name, _)| name).collect();
    let contract = exports.iter().find_map(|name| name.strip_prefix(PROCESSOR)?.strip_prefix('@'));
    let imports = component
        .imports(types)
        // Types are no wish.
        .filter(|(_, item)| match &item.ty {
            ComponentItem::ComponentInstance(instance) => {
                let mut items = instance.exports(types);
                items.any(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)))
            }
            _ => true,
        })
        .map(|(name, _)| (name.to_owned(), in_words(name)))
        .collect();
    let Description { name, version, summary, reads, config_schema } = description;
    Ok(Inspection {
        name,
        version,
        summary,
        contract: contract.unwrap_or_default().to_owned(),
        reads: [
            (Reads::PAYLOAD, "payload"),
            (Reads::KEY, "key"),
            (Reads::HEADERS, "headers"),
            (Reads::METADATA, "metadata (timestamp, partition, offset)"),
        ]
        .into_iter()
        .filter(|(column, _)| reads.contains(*column))
        .map(|(_, name)| name)
        .collect(),
        config_schema,
        imports,
        bytes: code.bytes.len() as u64,
        sha256: hex::encode(code.digest),
    })
}

fn describe(engine: &PluginEngine, loaded: &Loaded) -> Result<Description, String> {
    let pre = engine.link(loaded).map_err(|error| format!("does not keep the plugin contract: {error:#}"))?;
    let mut store = start_store(&pre, &Limits::default(), &Arc::default());
    let mut call = || {
        let ticks = store.data_mut().clock.start(START_TIME);
        store.set_epoch_deadline(ticks);
        let plugin = pre.instantiate(&mut store)?;
        plugin.millstream_plugin_processor().call_describe(&mut store)
    };
    call().map_err(|error| format!("does not start: it {}", fault_of(&error, store.data(), START_OUTPUT)))
}

/// What an import means for the one who runs the plugin.
fn in_words(import: &str) -> &'static str {
    let interface = import.strip_prefix(CONTRACT).and_then(|rest| rest.split('@').next());
    match interface {
        Some("log") => "writes to the log of the host, so much as its limit allows",
        Some("lookup") => "looks up tables that the pipeline grants by name (grants.lookup)",
        Some("clock") => "asks for the time of day (grants.clock)",
        Some("random") => "asks for random bytes (grants.random)",
        Some("state") => "keeps keys and values in spaces that the pipeline grants by name (grants.state)",
        Some("http") => "sends requests to servers that the pipeline grants by name (grants.http)",
        Some("metrics") => "has counters and histograms of its own (grants.metrics)",
        _ if import.starts_with("wasi:") => "is there for its language and traps when it is called",
        _ => "is not known to this host",
    }
}
