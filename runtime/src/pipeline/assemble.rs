//! From a checked pipeline file to the parts of a pipeline: opens everything.

use std::sync::Arc;

use anyhow::Context;

use super::budget::Budget;
use super::lane::Step;
use super::shadow::Around;
use super::{Parts, SinkPart};
use crate::config::{self, DeadLetterStore as DeadLetterTarget, Delivery, SinkSection};
use crate::dead_letters::DeadLetterWriter;
use crate::dead_letters::masks::Masks;
use crate::dead_letters::sink_writer::{Overflow, SinkWriter};
use crate::dead_letters::store::DeadLetterStore;
use crate::observe::metrics::Metrics;
use crate::observe::waits::Waits;
use crate::plugin::{Plugin, PluginEngine};
use crate::sinks::{Sink, SinkContext, TransactionSettings, prepared};
use crate::sources::{OpenSource, Replay, SourceContext};
use crate::state::States;
use crate::store::DataFolder;
use crate::traces::{Place, Tracer};

/// What the pipelines of a process share.
#[derive(Clone)]
pub struct Host {
    pub engine: Arc<PluginEngine>,
    pub metrics: Arc<Metrics>,
}

/// Opens the source, the sinks and the plugins of a pipeline. With `replay` that is read in place
/// of its source, to its end.
pub fn assemble(
    pipeline: config::Pipeline,
    folder: &DataFolder,
    host: &Host,
    replay: Option<OpenSource>,
) -> anyhow::Result<Parts> {
    let config::Pipeline {
        name,
        base,
        ordering,
        delivery,
        source,
        plugins,
        loaded_plugins,
        sinks,
        retry,
        dead_letters,
        tracing,
        settings,
        ..
    } = pipeline;
    let budget = Arc::new(Budget::new(settings.budget.as_usize()));
    let interval = settings.transaction_interval.0;
    let lanes = settings.lanes.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let transactions = match (delivery, &replay) {
        // A replay in place of the source has no positions that could be in a transaction.
        (Delivery::AtLeastOnce, _) | (_, Some(_)) => None,
        (Delivery::ExactlyOnce, None) => {
            let id = match &settings.transactional_id {
                Some(id) => id.clone(),
                None => format!("{name}-{}", folder.member()?),
            };
            let timeout = settings.transaction_timeout.0;
            let settings = TransactionSettings { pipeline: name.clone(), id, timeout };
            let transactions = |sink: &SinkSection| sink.config.transactions(&base, &settings);
            sinks.first().map(transactions).transpose().context("transactions")?
        }
    };
    let open_sink = |sink: SinkSection| -> anyhow::Result<SinkPart> {
        let SinkSection { name: sink_name, config, codec, common, .. } = sink;
        let traits = config.traits();
        let context = SinkContext {
            pipeline: name.clone(),
            name: sink_name.clone(),
            base: base.clone(),
            codec: Arc::clone(&codec),
            transactions: transactions.clone(),
        };
        let sink = config.open(context).with_context(|| format!("sink {sink_name}"))?;
        Ok(SinkPart { name: sink_name, common, traits, sink: prepared(codec, sink) })
    };
    let store = DeadLetterStore::new(folder, dead_letters.common.retention.0);
    let writer: Box<dyn DeadLetterWriter> = match dead_letters.to {
        DeadLetterTarget::Embedded => Box::new(store),
        DeadLetterTarget::Sink(section) => {
            let has_limits = section.config.has_limits();
            let SinkPart { sink, traits, common, .. } = open_sink(section).context("[dead_letters]")?;
            let sink = SinkWriter::new(sink as Box<dyn Sink>, common.batch.unwrap_or(traits.default_batch));
            if has_limits { Box::new(Overflow { sink, store }) } else { Box::new(sink) }
        }
    };
    let loaded = if loaded_plugins.len() == plugins.len() {
        loaded_plugins
    } else {
        (plugins.iter())
            .map(|spec| Ok(host.engine.check_both(spec)?))
            .collect::<anyhow::Result<Vec<Plugin>>>()?
    };
    let masks = Arc::new(Masks::of_plugins(&plugins)?);
    let places: Vec<Place> = (sinks.iter())
        .map(|sink| Place::new(sink.kind, sink.config.destination().unwrap_or_else(|| sink.name.clone())))
        .collect();
    let sinks = sinks.into_iter().map(open_sink).collect::<anyhow::Result<Vec<SinkPart>>>()?;
    let rows = source.common.batch;
    let source_kind = source.kind;
    let natives = source.natives;
    let positions_last = source.config.traits().replay == Replay::Yes;
    let waits = Arc::new(Waits::default());
    let states = States::of(folder);
    states.open(plugins.iter().flat_map(|plugin| plugin.grants.spaces()))?;
    let source = match replay {
        Some(replay) => replay,
        None => {
            let context = SourceContext {
                pipeline: name.clone(),
                base: base.clone(),
                codec: source.codec,
                max_message_bytes: source.common.max_message_bytes.as_usize(),
                checkpoints: Arc::new(folder.clone()),
                failures: Arc::new(folder.clone()),
                budget: settings.budget.as_usize(),
                budget_is_used_up: budget.used_up(),
                waits: Arc::clone(&waits),
                metrics: Arc::clone(&host.metrics),
            };
            source.config.open(context).with_context(|| format!("source {source_kind}"))?
        }
    };
    let around = Around {
        host,
        pipeline: name.as_str().into(),
        source: source.name.as_str().into(),
        states: &states,
        budget: &budget,
        masks,
    };
    let mut steps: Vec<Vec<Box<dyn Step>>> = (0..lanes).map(|_| Vec::new()).collect();
    for plugin in &loaded {
        for (lane, step) in steps.iter_mut().zip(around.steps(plugin, lanes)?) {
            lane.push(step);
        }
    }
    let tracer = match &tracing {
        Some(tracing) => {
            // Of a replay too it is where the messages were read first.
            let destination = source.name.split_once(':').map_or(source.name.as_str(), |(_, rest)| rest);
            let place = Place::new(source_kind, destination.to_owned());
            Some(Tracer::start(tracing, &name, place, places, &host.metrics)?)
        }
        None => None,
    };
    Ok(Parts {
        name,
        ordering,
        retry,
        settings,
        dead_letters: dead_letters.common,
        source,
        source_kind,
        rows,
        sinks,
        natives,
        lanes: steps,
        writer,
        states,
        positions_last,
        letters: None,
        budget,
        waits,
        transactions: transactions.map(|transactions| (transactions, interval)),
        tracer,
        metrics: Arc::clone(&host.metrics),
    })
}
