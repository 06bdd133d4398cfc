//! New versions of the plugins of a pipeline that runs: when their files change, and at SIGHUP with
//! the configuration that stands in the pipeline's file by then.
//!
//! What is new is compiled, configured and started beside the lanes, one instance for each; only when
//! all of that went well do they get it. Whatever fails leaves the old plugin running.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::MissedTickBehavior;

use super::Running;
use super::assemble::Host;
use super::lane::Step;
use super::swap::Mailbox;
use crate::config::report::{Located, Report};
use crate::config::{self, Environment, Pipeline, Reading};
use crate::plugin::{Plugin, PluginCode, PluginScope, PluginSpec, Reload};
use crate::state::States;

/// How often files of plugins are looked at. One is taken when two looks have seen it alike, so that
/// a file that is still written is left alone.
const LOOK: Duration = Duration::from_millis(500);

/// What a pipeline was started with.
pub struct Started {
    name: Arc<str>,
    file: PathBuf,
    data_dir: Option<PathBuf>,
    read: Reading,
    plugins: Vec<Plugin>,
}

impl Started {
    /// `data_dir` is what the command line says of all pipelines.
    pub fn of(pipeline: &Pipeline, data_dir: Option<&Path>) -> Started {
        Started {
            name: pipeline.name.as_str().into(),
            file: pipeline.file.clone(),
            data_dir: data_dir.map(Path::to_owned),
            read: pipeline.read.clone(),
            plugins: pipeline.loaded_plugins.clone(),
        }
    }
}

/// Reloads the plugins of one pipeline.
pub struct Reloader {
    started: Started,
    host: Host,
    source: Arc<str>,
    states: Arc<States>,
    mailboxes: Vec<Arc<Mailbox>>,
    /// The plugins that run, or that lanes are about to take.
    running: Vec<Plugin>,
    /// The file that they come from, as it was then.
    read: Reading,
    watched: BTreeMap<PathBuf, Watched>,
}

#[derive(Default)]
struct Watched {
    /// How the file looked the last time.
    seen: Option<Stamp>,
    /// How it looked when its content was last tried.
    tried: Option<Stamp>,
}

/// Tells one content of a file from another: when it was changed, its size, its inode.
type Stamp = (i64, i64, u64, u64);

/// Why plugins stay as they are.
enum Refused {
    Report(Report),
    Other(anyhow::Error),
}

impl Reloader {
    /// `source` is the name of its source.
    pub fn new(started: Started, host: Host, source: &str, pipeline: &Running) -> Reloader {
        let (states, mailboxes) = (Arc::clone(&pipeline.shared.states), pipeline.mailboxes.clone());
        let (running, read) = (started.plugins.clone(), started.read.clone());
        for plugin in &running {
            show(&host, &started.name, None, plugin);
        }
        let (source, watched) = (source.into(), BTreeMap::new());
        Reloader { started, host, source, states, mailboxes, running, read, watched }
    }

    /// Runs until it is dropped. `hangups` are SIGHUPs.
    pub async fn run(mut self, mut hangups: Signal) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(()) = hangups.recv() => self.read_again().await,
                _ = looks.tick() => self.look().await,
            }
        }
    }

    /// Takes the plugins of the pipeline's file as it is now.
    async fn read_again(&mut self) {
        let all: Vec<usize> = (0..self.running.len()).collect();
        let (file, engine) = (self.started.file.clone(), Arc::clone(&self.host.engine));
        let data_dir = self.started.data_dir.clone();
        let read = beside(move || {
            let mut environment = Environment::process();
            (environment.data_dir, environment.engine) = (data_dir, Some(engine));
            let mut pipelines = config::load(&file, &environment).map_err(Refused::Report)?;
            pipelines.pop().ok_or_else(|| Refused::Other(anyhow::anyhow!("the file is no pipeline")))
        });
        let pipeline = match read.await {
            Ok(pipeline) => pipeline,
            Err(refused) => return self.failed(&all, refused),
        };
        let keys = self.started.read.changed_keys(&pipeline.read);
        if !keys.is_empty() {
            let keys = keys.join(", ");
            tracing::warn!(pipeline = %self.started.name, keys, "changed in the pipeline's file and taken only by a restart");
        }
        let (new, old) = (pipeline.loaded_plugins, self.running.len());
        if new.len() != old {
            let new = new.len();
            let words = "a plugin more or less is taken only by a restart";
            let error = anyhow::anyhow!("the file has {new} [[plugin]], {old} run: {words}");
            return self.failed(&all, Refused::Other(error));
        }
        let changed: Vec<(usize, Plugin)> =
            new.into_iter().enumerate().filter(|(at, new)| !new.is_same(&self.running[*at])).collect();
        if changed.is_empty() {
            tracing::info!(pipeline = %self.started.name, "SIGHUP: no plugin has changed");
        }
        // The same plugins in a file with other lines.
        self.read = pipeline.read;
        self.replace(changed).await;
    }

    /// Looks for plugins whose files have changed, and takes each that has and can be used.
    async fn look(&mut self) {
        let files: Vec<PathBuf> = self.running.iter().filter_map(|plugin| file_of(plugin.spec())).collect();
        self.watched.retain(|file, _| files.contains(file));
        let mut changed = Vec::new();
        for file in files {
            let now = stamp(&file).await;
            let watched = self.watched.entry(file.clone()).or_default();
            // A file that is gone may be on its way: the plugin that runs needs it no more.
            if now.is_some() && now == watched.seen && now != watched.tried {
                watched.tried = now;
                changed.push(file);
            }
            watched.seen = now;
        }
        for at in 0..self.running.len() {
            let spec = self.running[at].spec().clone();
            if file_of(&spec).is_some_and(|file| changed.contains(&file)) {
                self.try_again(at, spec).await;
            }
        }
    }

    async fn try_again(&mut self, at: usize, spec: PluginSpec) {
        let (engine, running) = (Arc::clone(&self.host.engine), self.running[at].clone());
        let checked = beside(move || {
            // It was touched, or is as it was after all.
            if running.is_of_this_file() {
                return Ok(Ok(None));
            }
            Ok(engine.check(&spec).map(Some))
        });
        match checked.await {
            Ok(Ok(Some(plugin))) => self.replace(vec![(at, plugin)]).await,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => self.failed(&[at], Refused::Report(self.read.refusal(at, error))),
            Err(refused) => self.failed(&[at], refused),
        }
    }

    /// Gives every lane these plugins, or none of them to any.
    async fn replace(&mut self, new: Vec<(usize, Plugin)>) {
        if new.is_empty() {
            return;
        }
        let stages: Vec<usize> = new.iter().map(|(at, _)| *at).collect();
        let lanes = self.mailboxes.len();
        let plugins: Vec<(usize, Plugin, PluginScope)> =
            new.iter().map(|(at, plugin)| (*at, plugin.clone(), self.scope(plugin))).collect();
        let started = beside(move || {
            let lane = |_| {
                let step = |(at, plugin, scope): &(usize, Plugin, PluginScope)| {
                    scope.states.open(plugin.spec().grants.spaces()).map_err(Refused::Other)?;
                    let instance = plugin.instantiate(scope.clone()).map_err(Refused::Other)?;
                    Ok((*at, Box::new(instance) as Box<dyn Step>))
                };
                plugins.iter().map(step).collect()
            };
            (0..lanes).map(lane).collect::<Result<Vec<Vec<(usize, Box<dyn Step>)>>, Refused>>()
        });
        match started.await {
            Ok(started) => {
                for (mailbox, steps) in self.mailboxes.iter().zip(started) {
                    mailbox.put(steps);
                }
            }
            Err(refused) => return self.failed(&stages, refused),
        }
        for (at, plugin) in new {
            let old = std::mem::replace(&mut self.running[at], plugin);
            let (old, new) = (old.identity(), self.running[at].identity());
            tracing::info!(
                pipeline = %self.started.name, plugin = %new.step, version = %new.version, sha256 = %new.sha256,
                before = %old.sha256, "plugin reloaded: the next batch goes through it"
            );
            self.count(at, "ok");
            show(&self.host, &self.started.name, Some(old), &self.running[at]);
        }
        // What runs no more is not to stay in memory.
        self.host.engine.forget_loaded();
    }

    fn failed(&self, stages: &[usize], refused: Refused) {
        self.host.engine.forget_loaded();
        let error = match &refused {
            Refused::Report(report) => report.problems().iter().map(line).collect::<Vec<_>>().join("; "),
            Refused::Other(error) => format!("{error:#}"),
        };
        let plugins: Vec<&str> = stages.iter().map(|&at| &*self.running[at].identity().step).collect();
        tracing::error!(
            pipeline = %self.started.name, plugin = plugins.join(", "), error,
            "not reloaded: the old version goes on"
        );
        for &at in stages {
            self.count(at, "failed");
        }
    }

    fn count(&self, at: usize, result: &str) {
        let labels = [&*self.started.name, &self.running[at].identity().step, result];
        self.host.metrics.plugin_reloads.with_label_values(&labels).inc();
    }

    fn scope(&self, plugin: &Plugin) -> PluginScope {
        PluginScope {
            pipeline: Arc::clone(&self.started.name),
            source: Arc::clone(&self.source),
            metrics: self.host.metrics.plugin(&self.started.name, &plugin.identity().step),
            states: Arc::clone(&self.states),
            determined: None,
        }
    }
}

/// Runs what takes its time where nobody waits for the thread.
async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Refused::Other(anyhow::anyhow!("loading it panicked: {error}"))))
}

/// A problem on one line.
fn line(problem: &Located) -> String {
    let place = problem.place.as_ref().map_or_else(String::new, |place| format!(":{}", place.line));
    let help =
        problem.help.as_ref().map_or_else(String::new, |help| format!(" ({})", help.replace('\n', "; ")));
    format!("{}{place}: {}{help}", problem.file.display(), problem.message)
}

/// The file to be watched of a plugin.
fn file_of(spec: &PluginSpec) -> Option<PathBuf> {
    match (&spec.code, spec.reload) {
        (PluginCode::File(file), Reload::ChangedFile) => Some(file.clone()),
        _ => None,
    }
}

async fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = tokio::fs::metadata(file).await.ok()?;
    Some((metadata.mtime(), metadata.mtime_nsec(), metadata.len(), metadata.ino()))
}

/// Shows in the metrics what runs, in place of what ran before.
fn show(host: &Host, pipeline: &str, before: Option<&crate::plugin::PluginIdentity>, plugin: &Plugin) {
    let labels = |identity: &crate::plugin::PluginIdentity| {
        let crate::plugin::PluginIdentity { step, name, version, sha256 } = identity.clone();
        [pipeline.to_owned(), step, name, version, sha256]
    };
    if let Some(before) = before {
        // There is none if it was removed already.
        let _ = host.metrics.plugin_info.remove_label_values(&labels(before));
    }
    host.metrics.plugin_info.with_label_values(&labels(plugin.identity())).set(1);
}
