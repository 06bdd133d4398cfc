//! A plugin that is loaded, and the instances of it that lanes own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use wasmtime::Store;

use super::bindings::{Columns, Description, Outcome, PluginPre, Processor, Reads, types::ConfigError};
use super::capabilities::Capabilities;
use super::capabilities::state::{Epochs, Staged};
use super::convert;
use super::division::{Division, Pace};
use super::engine::PluginEngine;
use super::fault::{Stop, fault_of};
use super::guest::{Guest, Refused, deadline};
use super::log::{Speaker, printable};
use super::outcome::{Assembly, Tally};
use super::{
    Determined, FateVerdict, Fault, FaultKind, Limits, LoadError, PluginCode, PluginIdentity, PluginSpec,
    Processed,
};
use crate::config::problem::Problem;
use crate::config::units::ByteSize;
use crate::message::{Batch, Row};
use crate::observe::metrics::PluginMetrics;
use crate::pipeline::lane::Step;
use crate::state::{Ending, States, Ticket};

/// Time that a plugin has to start: its constructors, `describe` and `configure` each. A schema of
/// 1.5 MiB takes half a second.
pub(super) const START_TIME: Duration = Duration::from_secs(10);
/// Log that starting may write.
const START_LOG: ByteSize = ByteSize::mib(1);
/// A description holds a JSON Schema.
pub(super) const START_OUTPUT: ByteSize = ByteSize::mib(16);
/// Longest name and version of a plugin.
const MAX_NAME_BYTES: usize = 200;
/// Memory of 32-bit guests ends here.
const MAX_MEMORY: ByteSize = ByteSize::mib(4 << 10);
/// Resources of WASI, should a guest find a way to have any.
const MAX_HANDLES: usize = 1000;
/// What a row may take in the columns that come back, besides the output that is limited.
const ROW_BYTES: usize = 256;

/// A plugin that was loaded and has taken its configuration once, and the candidate beside it. Cheap
/// to clone.
#[derive(Clone)]
pub struct Plugin(pub(super) Arc<Inner>, pub(super) Option<Box<Plugin>>);

pub(super) struct Inner {
    spec: PluginSpec,
    identity: PluginIdentity,
    summary: String,
    config_schema: String,
    reads: Reads,
    pre: PluginPre<Guest>,
    config: String,
    capabilities: Arc<Capabilities>,
    /// The guest that proved the configuration good, for the first instance.
    spare: Mutex<Option<Live>>,
}

/// Where an instance works.
#[derive(Clone)]
pub struct PluginScope {
    pub pipeline: Arc<str>,
    /// Name of the source, which plugins see as metadata.
    pub source: Arc<str>,
    pub metrics: PluginMetrics,
    pub states: Arc<States>,
    /// For tests of a plugin.
    pub determined: Option<Determined>,
}

/// What a batch is, beside its messages.
#[derive(Clone, Debug, Default)]
pub struct Passage {
    /// The time that plugins see, milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: u64,
    /// Number of the claim that holds it.
    pub claim: u64,
    pub epochs: Epochs,
}

impl PluginEngine {
    /// Loads a plugin and tries its configuration. It may take a minute to compile one that was
    /// never seen before.
    ///
    /// # Errors
    /// What is wrong with its file, its grants, its limits or its configuration.
    pub fn check(&self, spec: &PluginSpec) -> Result<Plugin, LoadError> {
        let mut problems = limit_problems(spec);
        let capabilities = Capabilities::prepare(&spec.grants).map_err(|found| problems.extend(found)).ok();
        let loaded = self.load(spec).map_err(|problem| problems.push(problem)).ok();
        let failed = |problems| LoadError { step: spec.step.clone(), problems };
        let (Some(capabilities), Some(loaded), true) = (capabilities, loaded, problems.is_empty()) else {
            return Err(failed(problems));
        };
        let at = match spec.code {
            PluginCode::BuiltIn(_) => "/use",
            PluginCode::File(_) => "/wasm",
        };
        let pre = self.link(&loaded).map_err(|error| {
            let message = format!("does not keep the plugin contract: {error:#}");
            failed(vec![Problem::new(at, message).help("build it with millstream-plugin-sdk")])
        })?;
        let config = match &spec.config {
            serde_json::Value::Null => "{}".to_owned(),
            config => config.to_string(),
        };
        let speaker = Speaker { pipeline: None, step: spec.step.as_str().into() };
        let (live, description) = Live::start(&pre, &capabilities, spec, &config, &speaker)
            .map_err(|failure| failed(vec![failure.problem(spec, at)]))?;
        let Description { name, version, summary, reads, config_schema } = description;
        if let Some(long) = [&name, &version].into_iter().find(|text| text.len() > MAX_NAME_BYTES) {
            let message = format!("the plugin has a name or version of {} bytes", long.len());
            return Err(failed(vec![
                Problem::new(at, message).help(format!("{MAX_NAME_BYTES} are allowed")),
            ]));
        }
        if let Some(odd) = [&name, &version].into_iter().find(|text| **text != printable(text)) {
            let message = format!("the plugin has the name or version {odd:?}");
            return Err(failed(vec![Problem::new(at, message).help("control characters are not allowed")]));
        }
        let identity =
            PluginIdentity { step: spec.step.clone(), name, version, sha256: hex::encode(loaded.digest) };
        let inner = Inner {
            spec: spec.clone(),
            identity,
            summary,
            config_schema,
            reads,
            pre,
            config,
            capabilities,
            spare: Mutex::new(Some(live)),
        };
        Ok(Plugin(Arc::new(inner), None))
    }
}

fn limit_problems(spec: &PluginSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let limits = &spec.limits;
    if limits.memory > MAX_MEMORY {
        let message = format!("{} is more than WebAssembly has", limits.memory);
        problems.push(Problem::new("/limits/memory", message).help(format!("at most {MAX_MEMORY}")));
    }
    if limits.timeout.0.is_zero() {
        let problem = Problem::new("/limits/timeout", "no message can be handled in no time");
        problems.push(problem.help("at least 1ms; 500ms is the default"));
    }
    problems
}

impl Plugin {
    pub fn identity(&self) -> &PluginIdentity {
        &self.0.identity
    }

    pub fn spec(&self) -> &PluginSpec {
        &self.0.spec
    }

    /// What it does, in its own words.
    pub fn summary(&self) -> &str {
        &self.0.summary
    }

    /// JSON Schema of its configuration.
    pub fn config_schema(&self) -> &str {
        &self.0.config_schema
    }

    /// Whether it may keep state.
    pub fn keeps_state(&self) -> bool {
        !self.0.spec.grants.state.is_empty()
    }

    /// Makes an instance for a lane.
    ///
    /// # Errors
    /// It does not start: it did once, so it is short of memory or of time.
    pub fn instantiate(&self, scope: PluginScope) -> anyhow::Result<Instance> {
        let speaker =
            Speaker { pipeline: Some(Arc::clone(&scope.pipeline)), step: self.0.spec.step.as_str().into() };
        let mut live = self.0.spare.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        self.0.alive(&mut live, &speaker)?;
        let (columns, pace) = (convert::Columns::default(), Pace::default());
        Ok(Instance {
            plugin: self.clone(),
            scope,
            speaker,
            live,
            columns,
            pace,
            overrun_at: None,
            batches: 0,
        })
    }
}

/// A guest that has taken its configuration.
struct Live {
    store: Store<Guest>,
    processor: Processor,
    /// Memory past which it is replaced between batches. Guest memory never shrinks, and the budget
    /// (P6) would stop the source for good.
    high_water: usize,
}

enum StartFailure {
    Fault(Fault),
    /// The fault of one that needs more memory than its limit.
    Memory(Fault),
    Config(ConfigError),
}

impl StartFailure {
    fn problem(self, spec: &PluginSpec, at: &str) -> Problem {
        match self {
            StartFailure::Config(ConfigError { field, message }) => {
                // Their message may have several lines.
                let message = message.split('\n').map(printable).collect::<Vec<_>>().join("\n");
                // The report cannot point at what is not in the file, so the message names it.
                let message = match spec.config.pointer(&field) {
                    Some(_) => message,
                    None => format!("`config{}`: {message}", dotted(&field)),
                };
                Problem::new(format!("/config{field}"), message)
            }
            StartFailure::Memory(Fault { message, .. }) => {
                Problem::new("/limits/memory", format!("the plugin does not start: it {message}"))
                    .help(format!("give it more than {}", spec.limits.memory))
            }
            StartFailure::Fault(Fault { message, .. }) => {
                Problem::new(at, format!("the plugin does not start: it {message}"))
                    .help("its author has to mend that; use a version of it that starts")
            }
        }
    }
}

/// A JSON pointer as keys of TOML.
fn dotted(pointer: &str) -> String {
    pointer.replace('/', ".").replace("~1", "/").replace("~0", "~")
}

/// A store with the limits under which a guest starts.
pub(super) fn start_store(
    pre: &PluginPre<Guest>,
    limits: &Limits,
    capabilities: &Arc<Capabilities>,
) -> Store<Guest> {
    let mut store = Store::new(pre.engine(), Guest::new(limits, capabilities));
    store.limiter(|guest| &mut guest.memory);
    store.epoch_deadline_callback(deadline);
    store.set_hostcall_fuel(START_OUTPUT.as_usize());
    store.set_max_component_handles(MAX_HANDLES);
    store.data_mut().log.start(START_LOG, 1);
    store
}

impl Live {
    fn start(
        pre: &PluginPre<Guest>,
        capabilities: &Arc<Capabilities>,
        spec: &PluginSpec,
        config: &str,
        speaker: &Speaker,
    ) -> Result<(Live, Description), StartFailure> {
        let mut store = start_store(pre, &spec.limits, capabilities);
        let started = Self::started(&mut store, pre, config);
        let fault = |error| {
            let fault = fault_of(&error, store.data(), START_OUTPUT);
            match (fault.kind, store.data().memory.refused) {
                (FaultKind::OutOfMemory, Some(Refused::Memory)) => StartFailure::Memory(fault),
                _ => StartFailure::Fault(fault),
            }
        };
        let started = started.map_err(fault);
        store.data_mut().log.flush(speaker, &[]);
        let (processor, description) = started?.map_err(StartFailure::Config)?;
        let memory = &store.data().memory;
        let high_water = memory.bytes + memory.limit.saturating_sub(memory.bytes) / 4 * 3;
        Ok((Live { store, processor, high_water }, description))
    }

    fn started(
        store: &mut Store<Guest>,
        pre: &PluginPre<Guest>,
        config: &str,
    ) -> wasmtime::Result<Result<(Processor, Description), ConfigError>> {
        let give_time = |store: &mut Store<Guest>| {
            let ticks = store.data_mut().clock.start(START_TIME);
            store.set_epoch_deadline(ticks);
        };
        give_time(store);
        let processor = pre.instantiate(&mut *store)?.millstream_plugin_processor().clone();
        give_time(store);
        let description = processor.call_describe(&mut *store)?;
        give_time(store);
        Ok(processor.call_configure(store, config)?.map(|()| (processor, description)))
    }
}

/// An instance of a plugin. A lane owns it.
pub struct Instance {
    plugin: Plugin,
    scope: PluginScope,
    speaker: Speaker,
    live: Option<Live>,
    columns: convert::Columns,
    pace: Pace,
    /// See [`Step::overrun_at`].
    overrun_at: Option<u64>,
    /// Given to [`Instance::process`].
    batches: u64,
}

impl Instance {
    pub fn identity(&self) -> &PluginIdentity {
        self.plugin.identity()
    }

    /// Memory that the guest holds.
    pub fn memory_bytes(&self) -> usize {
        self.live.as_ref().map_or(0, |live| live.store.data().memory.bytes)
    }

    /// [`Instance::process_in`] for a batch of no pipeline: what it writes to its state is final
    /// at once. `now_ms` is the time that the plugin sees.
    ///
    /// # Errors
    /// As there.
    pub fn process(&mut self, batch: Batch, now_ms: u64) -> anyhow::Result<Processed> {
        let claim_rows: Vec<u32> = batch.rows().iter().map(|row| row.claim_row).collect();
        self.batches += 1;
        let passage = Passage { now_ms, claim: self.batches, epochs: Epochs::None };
        let mut processed = self.process_in(batch, &passage)?;
        for row in std::mem::take(&mut processed.staged.rows) {
            let ticket = Ticket { claim: passage.claim, row: claim_rows[row as usize] };
            self.scope.states.settle(ticket, Ending::Done);
        }
        for fate in &mut processed.fates {
            if let FateVerdict::Duplicate(_) = fate.verdict {
                fate.verdict = FateVerdict::Dropped;
            }
        }
        Ok(processed)
    }

    /// Lends a batch to the plugin, in calls of many messages. A call that fails is divided on fresh
    /// guests until the message that makes it fail stands alone (P4); the others go through, in
    /// order.
    ///
    /// # Errors
    /// The plugin could not be started again after it had failed. Nothing of the batch is settled.
    pub fn process_in(&mut self, mut batch: Batch, passage: &Passage) -> anyhow::Result<Processed> {
        let Instance { plugin, scope, speaker, live, columns, pace, overrun_at, .. } = self;
        let inner = &*plugin.0;
        let limits = &inner.spec.limits;
        // Room for the plugin to work in.
        let max_bytes = limits.memory.0 / 8;
        let tables = inner.capabilities.tables.current();
        let keeps_state = plugin.keeps_state();
        let input = batch.take_rows();
        let mut assembly = Assembly::new(&batch);
        let mut staged = Staged::default();
        let mut division = Division::default();
        let mut next = 0;
        while next < input.len() {
            let most = division.rows(pace.rows(), next).min(input.len() - next);
            let (rows, bytes) = columns.fill(&batch, &input[next..next + most], inner.reads, max_bytes);
            let guest = inner.alive(live, speaker)?;
            let data = guest.store.data_mut();
            data.tables = Arc::clone(&tables);
            data.now_ms = passage.now_ms.cast_signed();
            data.determined.clone_from(&scope.determined);
            if keeps_state {
                let rows = &input[next..next + rows];
                data.keeping.begin(&scope.states, &speaker.step, rows, passage.claim, &passage.epochs);
            }
            let fates = assembly.fates_mut().len();
            let result = if columns.rows() == 0 {
                Err(too_large(bytes, limits.memory))
            } else {
                let columns_sent = columns.as_sent(&batch, passage.now_ms, &scope.source);
                call(guest, limits, columns_sent, &scope.metrics).and_then(|(outcome, time)| {
                    let overruns = |row: &Row| Some(row.position.record) == *overrun_at;
                    if input[next..next + rows].iter().any(overruns) {
                        return Err(Fault::from(Stop::Timeout(limits.timeout.0)));
                    }
                    pace.took(rows, time);
                    let taken = assembly.take(outcome, &mut batch, columns, &input, next, limits.output);
                    taken.map_err(Fault::from)
                })
            };
            let data = guest.store.data_mut();
            if result.is_ok() || rows == 1 {
                data.log.flush(speaker, &input[next..next + rows]);
            }
            match result {
                Ok(tally) => {
                    data.keeping.went_well(next, &mut assembly, fates, &mut staged);
                    scope.metrics.own(&mut data.points);
                    count(&scope.metrics, tally);
                    division.went_well();
                }
                Err(fault) => {
                    data.keeping.failed(next, &mut staged);
                    *live = None;
                    scope.metrics.fault(fault.kind);
                    if rows > 1 {
                        tracing::debug!(plugin = %inner.spec.step, rows, %fault, "divides a call that failed");
                        division.failed(next + rows);
                        continue;
                    }
                    division.found();
                    scope.metrics.faulted.inc();
                    assembly.fault(&input, next, fault);
                }
            }
            next += rows;
        }
        if live.as_ref().is_some_and(|live| live.store.data().memory.bytes > live.high_water) {
            *live = None;
        }
        Ok(Processed { staged, ..assembly.finish(batch, input)? })
    }
}

impl Step for Instance {
    fn identity(&self) -> &PluginIdentity {
        Instance::identity(self)
    }

    fn process(&mut self, batch: Batch, passage: &Passage) -> anyhow::Result<Processed> {
        self.process_in(batch, passage)
    }

    fn keeps_state(&self) -> bool {
        self.plugin.keeps_state()
    }

    fn memory_bytes(&self) -> usize {
        Instance::memory_bytes(self)
    }

    fn overrun_at(&mut self, record: u64) {
        self.overrun_at = Some(record);
    }

    fn determine(&mut self, random: Determined) {
        self.scope.determined = Some(random);
    }
}

impl Inner {
    /// The guest, a fresh one if the last was thrown away.
    fn alive<'l>(&self, live: &'l mut Option<Live>, speaker: &Speaker) -> anyhow::Result<&'l mut Live> {
        let guest = match live.take() {
            Some(guest) => guest,
            None => {
                let started = Live::start(&self.pre, &self.capabilities, &self.spec, &self.config, speaker);
                let (guest, _) = started.map_err(|failure| {
                    let message = failure.problem(&self.spec, "").message;
                    anyhow::anyhow!("the plugin {} could not be started again: {message}", self.spec.step)
                })?;
                guest
            }
        };
        Ok(live.insert(guest))
    }
}

/// One call; returns what the guest says and the time it took.
fn call(
    live: &mut Live,
    limits: &Limits,
    columns: Columns<'_>,
    metrics: &PluginMetrics,
) -> Result<(Outcome, Duration), Fault> {
    let Live { store, processor, .. } = live;
    let rows = columns.rows as usize;
    // What an honest result holds lies in the guest's memory, each byte once; so a list that says to
    // be larger is refused before it is made.
    let output = limits.output.as_usize().saturating_mul(rows).min(limits.memory.as_usize());
    let lookups = columns.arena.len();
    store.set_hostcall_fuel(output.saturating_add(ROW_BYTES * (rows + 256) + lookups));
    let guest = store.data_mut();
    guest.memory.refused = None;
    guest.points.clear();
    guest.log.start(limits.log, rows);
    let ticks = guest.clock.start(limits.timeout.0);
    store.set_epoch_deadline(ticks);
    metrics.bytes_in.inc_by(bytes_in(&columns));
    let result = processor.call_process(&mut *store, columns);
    let guest = store.data();
    let inside = guest.clock.in_guest();
    metrics.called(inside);
    metrics.has_memory(guest.memory.bytes);
    match result {
        Ok(outcome) => {
            metrics.bytes_out.inc_by(bytes_out(&outcome));
            Ok((outcome, inside))
        }
        Err(error) => Err(fault_of(&error, guest, limits.output)),
    }
}

/// What is copied into the guest for a call.
fn bytes_in(columns: &Columns<'_>) -> u64 {
    let Columns {
        arena, payloads, keys, header_ends, headers, timestamps, source, partitions, offsets, ..
    } = columns;
    let lists = [
        size_of_val(*arena),
        size_of_val(*payloads),
        size_of_val(*keys),
        size_of_val(*header_ends),
        size_of_val(*headers),
        size_of_val(*timestamps),
        source.len(),
        size_of_val(*partitions),
        size_of_val(*offsets),
    ];
    lists.iter().sum::<usize>() as u64
}

/// What is copied out of it, but for the names of routes and reasons.
fn bytes_out(outcome: &Outcome) -> u64 {
    let Outcome { verdicts, arena, emitted, headers, timestamps, .. } = outcome;
    let lists = [
        size_of_val(&verdicts[..]),
        size_of_val(&arena[..]),
        size_of_val(&emitted[..]),
        size_of_val(&headers[..]),
        size_of_val(&timestamps[..]),
    ];
    lists.iter().sum::<usize>() as u64
}

fn count(metrics: &PluginMetrics, tally: Tally) {
    for (counter, count) in [
        (&metrics.passed, tally.passed),
        (&metrics.dropped, tally.dropped),
        (&metrics.emitted, tally.emitted),
        (&metrics.rejected, tally.rejected),
        (&metrics.retried, tally.retried),
    ] {
        if count > 0 {
            counter.inc_by(count);
        }
    }
}

fn too_large(bytes: u64, memory: ByteSize) -> Fault {
    let message = format!("cannot have a message of {bytes} bytes in its {memory} of memory");
    Fault { kind: FaultKind::OutOfMemory, message }
}
