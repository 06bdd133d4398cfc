//! A plugin with a candidate that runs beside it (`shadow`).

use super::component::Code;
use super::{LoadError, Plugin, PluginEngine, PluginSpec};
use crate::config::problem::Problem;

/// A candidate that a pipeline names beside a plugin.
#[derive(Clone, PartialEq, Debug)]
pub struct ShadowSpec {
    /// Its step is that of the plugin with `:shadow` behind it. It has the limits of the plugin for
    /// itself, and of its grants only those without effects.
    pub plugin: Box<PluginSpec>,
    /// Share of the batches that it has, over 0 and at most 1.
    pub share: f64,
    /// Whether it is configured in a way of its own.
    pub has_config: bool,
}

impl PluginEngine {
    /// [`PluginEngine::check`] for a plugin with its candidate.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn check_both(&self, spec: &PluginSpec) -> Result<Plugin, LoadError> {
        match (self.check(spec), self.check_candidate(spec)) {
            (Ok(plugin), Ok(candidate)) => Ok(plugin.with_candidate(candidate)),
            (Ok(_), Err(error)) | (Err(error), Ok(_)) => Err(error),
            (Err(mut error), Err(candidate)) => {
                error.problems.extend(candidate.problems);
                Err(error)
            }
        }
    }

    /// The candidate beside a plugin, if it has one.
    ///
    /// # Errors
    /// What is wrong with it, its place within the `[[plugin]]` that names it.
    pub fn check_candidate(&self, spec: &PluginSpec) -> Result<Option<Plugin>, LoadError> {
        let Some(shadow) = &spec.shadow else { return Ok(None) };
        self.check(&shadow.plugin).map(Some).map_err(|error| {
            let problems = error.problems.into_iter().map(|problem| {
                let own = !problem.at.starts_with("/config") || shadow.has_config;
                let at = if own { format!("/shadow{}", problem.at) } else { problem.at };
                Problem { at, message: format!("the shadow: {}", problem.message), help: problem.help }
            });
            LoadError { step: spec.step.clone(), problems: problems.collect() }
        })
    }
}

impl Plugin {
    pub fn candidate(&self) -> Option<&Plugin> {
        self.1.as_deref()
    }

    pub fn with_candidate(self, candidate: Option<Plugin>) -> Plugin {
        Plugin(self.0, candidate.map(Box::new))
    }

    /// Whether both are of the same code, configured alike, and have the same candidate.
    pub fn is_same(&self, other: &Plugin) -> bool {
        let identity = |plugin: &Plugin| plugin.candidate().map(Plugin::identity).cloned();
        self.spec() == other.spec()
            && self.identity() == other.identity()
            && identity(self) == identity(other)
    }

    /// The same, whatever their candidates.
    pub fn is_same_alone(&self, other: &Plugin) -> bool {
        let alone = |plugin: &Plugin| PluginSpec { shadow: None, ..plugin.spec().clone() };
        alone(self) == alone(other) && self.identity() == other.identity()
    }

    /// Whether its file still holds the code that was loaded.
    pub fn is_of_this_file(&self) -> bool {
        let PluginSpec { code, limits, .. } = self.spec();
        Code::of(code, limits.file).is_ok_and(|code| hex::encode(code.digest) == self.identity().sha256)
    }
}
