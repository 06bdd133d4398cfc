//! Which plugin is meant, and how it is configured.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde_json::Value;

use crate::config::{Environment, load_plugins};
use crate::plugin::{EngineSettings, Grants, Limits, PluginCode, PluginEngine, PluginSpec, Reload};

/// Files beside a plugin whose first `[[plugin]]` says how it is configured.
const EXAMPLES: [&str; 2] = ["pipeline.toml", "example.toml"];

/// The plugin of a folder as its example configures it, with the code that was `built` of it.
pub fn of_folder(folder: &Path, built: Option<PathBuf>) -> anyhow::Result<PluginSpec> {
    let example = EXAMPLES.iter().map(|name| folder.join(name)).find(|file| file.is_file());
    let example = example.with_context(|| {
        format!(
            "{} has no {}: write one whose first [[plugin]] is this one, with its config",
            folder.display(),
            EXAMPLES.join(" or ")
        )
    })?;
    let mut spec = of_pipeline(&example, None)?;
    if let Some(built) = built {
        spec.code = PluginCode::File(built);
    }
    Ok(spec)
}

/// A plugin by its file: a pipeline file that configures it, or its .wasm with this configuration.
pub fn of_file(file: &Path, step: Option<&str>, config: Option<&str>) -> anyhow::Result<PluginSpec> {
    if is_pipeline(file) {
        return of_pipeline(file, step);
    }
    let config = config.unwrap_or("{}");
    let config = serde_json::from_str(config).with_context(|| format!("--config {config:?} is not JSON"))?;
    let step = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(spec(step, PluginCode::File(file.to_owned()), config))
}

/// A plugin of which nothing else is said.
pub fn spec(step: String, code: PluginCode, config: Value) -> PluginSpec {
    PluginSpec {
        step,
        code,
        config,
        limits: Limits::default(),
        grants: Grants::default(),
        sha256: None,
        reload: Reload::default(),
        shadow: None,
    }
}

/// Whether a file is a pipeline and not a plugin, by its ending.
pub fn is_pipeline(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "toml")
}

/// A plugin of a pipeline file: the step of that name, or the first.
pub fn of_pipeline(file: &Path, step: Option<&str>) -> anyhow::Result<PluginSpec> {
    let mut specs = up_to(file, step)?;
    specs.pop().with_context(|| format!("{} has no [[plugin]]", file.display()))
}

/// The plugins of a pipeline file in order, up to the step of that name, or the first alone.
pub fn up_to(file: &Path, step: Option<&str>) -> anyhow::Result<Vec<PluginSpec>> {
    let mut specs = load_plugins(file, &Environment::process())?;
    let last = match step {
        None => 0,
        Some(step) => specs.iter().position(|spec| spec.step == step).with_context(|| {
            let steps: Vec<&str> = specs.iter().map(|spec| spec.step.as_str()).collect();
            format!("{} has no plugin {step:?}; its plugins are {}", file.display(), steps.join(", "))
        })?,
    };
    specs.truncate(last + 1);
    Ok(specs)
}

/// An engine that keeps what it compiles in the user's cache, or for this process alone.
pub fn engine() -> anyhow::Result<Arc<PluginEngine>> {
    PluginEngine::new(settings()?)
}

/// The same, with source lines in the frames of a fault.
pub fn engine_with_lines() -> anyhow::Result<Arc<PluginEngine>> {
    PluginEngine::new(EngineSettings { source_lines: true, ..settings()? })
}

fn settings() -> anyhow::Result<EngineSettings> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute())
    {
        Some(cache) => cache,
        None => std::env::home_dir().unwrap_or_else(std::env::temp_dir).join(".cache"),
    };
    EngineSettings::own_binary(cache.join("millstream/plugins"))
}
