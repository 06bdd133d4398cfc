//! What a lane takes its messages through: the native steps of the source, then the plugins.
//!
//! A stage is a number that counts both, from the first native step on. Where a plugin is told by its
//! own number (a new version of it), that counts the plugins alone.

use super::lane::Step;
use super::native::NativeStep;
use crate::codecs::Needs;
use crate::dead_letters::Stage;
use crate::message::Batch;
use crate::plugin::{Passage, PluginIdentity, Processed};

pub struct Chain {
    natives: Vec<(&'static str, Box<dyn NativeStep>)>,
    plugins: Vec<Box<dyn Step>>,
}

impl Chain {
    /// The native steps come with their names.
    pub fn new(natives: Vec<(&'static str, Box<dyn NativeStep>)>, plugins: Vec<Box<dyn Step>>) -> Chain {
        Chain { natives, plugins }
    }

    /// Stages there are.
    pub fn stages(&self) -> usize {
        self.natives.len() + self.plugins.len()
    }

    /// What has to be waited for before a stage can take a batch.
    pub fn needs<'a>(&'a self, stage: usize, batch: &'a Batch) -> Option<Needs<'a>> {
        self.natives.get(stage)?.1.needs(batch)
    }

    pub fn process(&mut self, stage: usize, batch: Batch, passage: &Passage) -> anyhow::Result<Processed> {
        match stage.checked_sub(self.natives.len()) {
            None => self.natives[stage].1.process(batch),
            Some(plugin) => self.plugins[plugin].process(batch, passage),
        }
    }

    /// The plugin of a stage, if it is one.
    pub fn plugin(&self, stage: usize) -> Option<&dyn Step> {
        stage.checked_sub(self.natives.len()).map(|plugin| &*self.plugins[plugin])
    }

    pub fn identity(&self, stage: usize) -> Option<&PluginIdentity> {
        self.plugin(stage).map(Step::identity)
    }

    /// What metrics and dead letters call a stage.
    pub fn stage(&self, stage: usize) -> Stage {
        match self.identity(stage) {
            None => Stage::SourceStep(self.natives[stage].0.to_owned()),
            Some(plugin) => Stage::Plugin(plugin.step.clone()),
        }
    }

    /// Puts another version in the place of a plugin.
    pub fn replace(&mut self, plugin: usize, step: Box<dyn Step>) {
        self.plugins[plugin] = step;
    }

    /// Guest memory of the plugins, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.plugins.iter().map(|plugin| plugin.memory_bytes()).sum()
    }
}
