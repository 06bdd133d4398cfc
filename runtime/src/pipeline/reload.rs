//! New versions of the plugins of a pipeline that runs: when their files change, and at SIGHUP with
//! the configuration that stands in the pipeline's file by then.
//!
//! What is new is compiled, configured and started beside the lanes, one instance for each; only when
//! all of that went well do they get it. Whatever fails leaves the old plugin running.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Running;
use super::assemble::Host;
use super::budget::Budget;
use super::lane::Step;
use super::shadow::Around;
use super::swap::Mailbox;
use crate::config::report::{Located, Report};
use crate::config::{self, Environment, Pipeline, Reading};
use crate::dead_letters::masks::Masks;
use crate::plugin::{Plugin, PluginCode, PluginIdentity, PluginSpec, Reload};
use crate::stamp::Stamp;
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
    budget: Arc<Budget>,
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

/// Which of a plugin and its candidate.
#[derive(Clone, Copy)]
enum Part {
    Active,
    Candidate,
}

/// Why plugins stay as they are.
enum Refused {
    Report(Report),
    Other(anyhow::Error),
}

impl Reloader {
    /// `source` is the name of its source.
    pub fn new(started: Started, host: Host, source: &str, pipeline: &Running) -> Reloader {
        let (states, budget) = (Arc::clone(&pipeline.shared.states), Arc::clone(&pipeline.shared.budget));
        let mailboxes = pipeline.mailboxes.clone();
        let (running, read) = (started.plugins.clone(), started.read.clone());
        for plugin in running.iter().flat_map(|plugin| [Some(plugin), plugin.candidate()]).flatten() {
            show(&host, &started.name, plugin);
        }
        let (source, watched) = (source.into(), BTreeMap::new());
        Reloader { started, host, source, states, budget, mailboxes, running, read, watched }
    }

    /// Runs until it is dropped. `hangups` changes with each SIGHUP.
    pub async fn run(mut self, mut hangups: watch::Receiver<()>) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Ok(()) = hangups.changed() => self.read_again().await,
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
        let both = |plugin: &Plugin| {
            let candidate = plugin.candidate().and_then(|candidate| file_of(candidate.spec()));
            file_of(plugin.spec()).into_iter().chain(candidate)
        };
        let files: BTreeSet<PathBuf> = self.running.iter().flat_map(both).collect();
        self.watched.retain(|file, _| files.contains(file));
        let mut changed = Vec::new();
        for file in files {
            let now = tokio::fs::metadata(&file).await.ok().as_ref().map(Stamp::from);
            let watched = self.watched.entry(file.clone()).or_default();
            // A file that is gone may be on its way: the plugin that runs needs it no more.
            if now.is_some() && now == watched.seen && now != watched.tried {
                watched.tried = now;
                changed.push(file);
            }
            watched.seen = now;
        }
        for at in 0..self.running.len() {
            let of = |plugin: &Plugin| file_of(plugin.spec()).is_some_and(|file| changed.contains(&file));
            let (active, candidate) = (of(&self.running[at]), self.running[at].candidate().is_some_and(of));
            // One that cannot be used does not keep the other back.
            for (is_changed, part) in [(active, Part::Active), (candidate, Part::Candidate)] {
                if is_changed {
                    self.try_again(at, part).await;
                }
            }
        }
    }

    async fn try_again(&mut self, at: usize, part: Part) {
        let (engine, running) = (Arc::clone(&self.host.engine), self.running[at].clone());
        let checked = beside(move || {
            let candidate = running.candidate().cloned();
            // It was touched, or is as it was after all.
            let is_old = match part {
                Part::Active => running.is_of_this_file(),
                Part::Candidate => candidate.as_ref().is_some_and(Plugin::is_of_this_file),
            };
            if is_old {
                return Ok(Ok(None));
            }
            let new = match part {
                Part::Active => engine.check(running.spec()).map(|plugin| plugin.with_candidate(candidate)),
                Part::Candidate => {
                    engine.check_candidate(running.spec()).map(|candidate| running.with_candidate(candidate))
                }
            };
            Ok(new.map(Some))
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
        let plugins = new.clone();
        let (host, states, budget) = (self.host.clone(), Arc::clone(&self.states), Arc::clone(&self.budget));
        let (pipeline, source) = (Arc::clone(&self.started.name), Arc::clone(&self.source));
        // With the steps that stay: what `mask` hides is hidden everywhere.
        let mut chain = self.running.clone();
        for (at, plugin) in &new {
            chain[*at] = plugin.clone();
        }
        let started = beside(move || {
            let masks = Masks::of_plugins(chain.iter().map(Plugin::spec)).map_err(Refused::Other)?;
            let masks = Arc::new(masks);
            let around = Around { host: &host, pipeline, source, states: &states, budget: &budget, masks };
            let mut started: Vec<Vec<(usize, Box<dyn Step>)>> = (0..lanes).map(|_| Vec::new()).collect();
            for (at, plugin) in &plugins {
                states.open(plugin.spec().grants.spaces()).map_err(Refused::Other)?;
                let steps = around.steps(plugin, lanes).map_err(Refused::Other)?;
                for (lane, step) in started.iter_mut().zip(steps) {
                    lane.push((*at, step));
                }
            }
            Ok(started)
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
            self.count(at, "ok");
            let new = &self.running[at];
            self.tell(Some(&old), Some(new));
            self.tell(old.candidate(), new.candidate());
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

    /// Tells of a plugin that took the place of another, in log and metrics.
    fn tell(&self, old: Option<&Plugin>, new: Option<&Plugin>) {
        let pipeline = &*self.started.name;
        let before = old.map_or("none", |old| &old.identity().sha256);
        if old.zip(new).is_some_and(|(old, new)| old.is_same_alone(new)) {
            return;
        }
        if let Some(old) = old {
            // It is not there if it was removed already.
            let _ = self.host.metrics.plugin_info.remove_label_values(&labels(pipeline, old));
        }
        match (old, new) {
            (_, Some(new)) => {
                let PluginIdentity { step, version, sha256, .. } = new.identity();
                tracing::info!(
                    pipeline,
                    plugin = step,
                    version,
                    sha256,
                    before,
                    "plugin reloaded: the next batch goes through it"
                );
                show(&self.host, pipeline, new);
            }
            (Some(old), None) => {
                tracing::info!(pipeline, plugin = %old.identity().step, before, "shadow ended");
            }
            (None, None) => {}
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

/// Shows in the metrics what runs.
fn show(host: &Host, pipeline: &str, plugin: &Plugin) {
    host.metrics.plugin_info.with_label_values(&labels(pipeline, plugin)).set(1);
}

fn labels(pipeline: &str, plugin: &Plugin) -> [String; 5] {
    let PluginIdentity { step, name, version, sha256 } = plugin.identity().clone();
    [pipeline.to_owned(), step, name, version, sha256]
}
