//! `millstream run`: one or many pipelines in a process.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::output::tell;
use crate::config::secrets::Redactor;
use crate::config::{DeadLetterStore as DeadLetterTarget, Pipeline};
use crate::dead_letters::elsewhere;
use crate::dead_letters::replay::ReplayContext;
use crate::dead_letters::{Letters, store::DeadLetterStore};
use crate::observe::admin::{self, AdminServer};
use crate::observe::health::Health;
use crate::observe::logs::{self, LogFormat};
use crate::observe::metrics::{Metrics, Observed};
use crate::observe::socket::{Service, SocketServer};
use crate::observe::terminal::PROGRESS;
use crate::pipeline::assemble::{Host, assemble};
use crate::pipeline::ingest::SharedProgress;
use crate::pipeline::ledger::{Books, Snapshot};
use crate::pipeline::reload::{Reloader, Started};
use crate::pipeline::{Running, Shared, start};
use crate::store::DataFolder;

/// How long dead letters may be past their retention until they are deleted: as long as the retention
/// itself, within these bounds. Looking costs little if there are none.
const PURGE_INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// How often the progress line is drawn.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Runs pipelines until their sources have ended or SIGTERM or Ctrl-C comes.
///
/// Ends with 0 when everything that was read is settled, or was given back to its source at the
/// deadline of a stop.
#[derive(Args)]
pub struct Run {
    /// A pipeline file, or a folder of them.
    path: PathBuf,
    /// Keep what pipelines must remember in this folder, instead of beside their files.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served; by default 127.0.0.1:9464, or nowhere if
    /// that is in use.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Let the admin server, which asks nobody who they are, be reached from other machines.
    #[arg(long)]
    admin_allow_remote: bool,
    /// How the log on standard error looks; MILLSTREAM_LOG says what is logged.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

impl Run {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        logs::init(self.log_format)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let code = runtime.block_on(self.run_all());
        // All that counts was waited for; a client library that does not come back holds up nothing.
        runtime.shutdown_background();
        code
    }

    async fn run_all(self) -> anyhow::Result<ExitCode> {
        let stop = stop_on_signals()?;
        // From here on a SIGHUP does not end the process.
        let hangups = hangups(&stop)?;
        let engine = super::engine(&self.path, self.data_dir.as_deref())?;
        let Some(pipelines) = super::load(&self.path, self.data_dir.as_deref(), Some(&engine)) else {
            return Ok(ExitCode::FAILURE);
        };
        let host = Host { engine, metrics: Arc::new(Metrics::new()) };
        let health = Health::default();
        let all_ended = CancellationToken::new();
        let admin = self.admin_server().await?.map(|server| {
            tracing::info!(addr = %server.address(), "admin server listening");
            tokio::spawn(server.serve(Arc::clone(&host.metrics), health.clone(), all_ended.clone()))
        });
        let mut ended = JoinSet::new();
        let mut shown = Vec::new();
        for pipeline in pipelines {
            let name = pipeline.name.clone();
            // Where `dlq` finds its dead letters.
            let letters_of =
                matches!(pipeline.dead_letters.to, DeadLetterTarget::Embedded).then(|| pipeline.file.clone());
            health.not_ready(&name, "starting");
            match self.open(pipeline, &host, &stop).with_context(|| format!("pipeline {name}")) {
                Ok(open) => {
                    let shared = Arc::clone(&open.running.shared);
                    shown.push((Arc::clone(&shared), Arc::clone(&open.running.progress)));
                    let stopping = stop.clone();
                    health.running(&name, move || {
                        let mut reasons = shared.waits.reasons();
                        if stopping.is_cancelled() {
                            reasons.push(("pipeline".to_owned(), "stopping".to_owned()));
                        }
                        reasons
                    });
                    let (health, hangups) = (health.clone(), hangups.clone());
                    ended.spawn(async move {
                        let result = open.run(hangups).await;
                        match &result {
                            Ok(_) => health.ended(&name),
                            Err(_) => health.not_ready(&name, "it has failed; see the log"),
                        }
                        (name, letters_of, result)
                    });
                }
                Err(error) => {
                    // One that does not start ends all: better at once than half a service.
                    stop.cancel();
                    while ended.join_next().await.is_some() {}
                    return Err(error);
                }
            }
        }
        // Held to the end: the books of a pipeline are those of the life of the process (P11).
        let progress = tokio::spawn(draw_progress(shown.clone()));
        let mut code = ExitCode::SUCCESS;
        while let Some(joined) = ended.join_next().await {
            let (name, letters_of, result) = joined.context("a pipeline panicked")?;
            match result {
                Ok(snapshot) => report(&name, letters_of.as_deref(), &snapshot),
                Err(error) => {
                    let error = format!("{error:#}");
                    tell(format_args!("error: pipeline {name}: {}", Redactor::global().redact(&error)));
                    code = ExitCode::FAILURE;
                }
            }
        }
        progress.abort();
        // A terminal that has gone shows none.
        let _ = PROGRESS.clear();
        all_ended.cancel();
        if let Some(admin) = admin {
            admin.await.context("the admin server panicked")??;
        }
        Ok(code)
    }

    fn open(&self, pipeline: Pipeline, host: &Host, stop: &CancellationToken) -> anyhow::Result<Open> {
        let started = Started::of(&pipeline, self.data_dir.as_deref());
        let letters = matches!(pipeline.dead_letters.to, DeadLetterTarget::Embedded);
        let letters = letters.then(|| Letters::new(&pipeline.file, self.data_dir.as_deref()));
        open(pipeline, started, letters, host, stop)
    }

    /// The admin server, unless nobody asked for it and its usual address is taken: several
    /// processes on a machine are no mistake.
    async fn admin_server(&self) -> anyhow::Result<Option<AdminServer>> {
        if let Some(address) = self.admin {
            return AdminServer::bind(address, self.admin_allow_remote).await.map(Some);
        }
        let usual: SocketAddr = admin::DEFAULT_ADDRESS.parse().context("the usual address is one")?;
        match AdminServer::bind(usual, false).await {
            Ok(server) => Ok(Some(server)),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "no admin server");
                Ok(None)
            }
        }
    }
}

/// A pipeline that runs, and what it needs to go on.
struct Open {
    running: Running,
    folder: DataFolder,
    socket: SocketServer,
    service: Service,
    reloader: Reloader,
}

fn open(
    pipeline: Pipeline,
    started: Started,
    letters: Option<Letters>,
    host: &Host,
    stop: &CancellationToken,
) -> anyhow::Result<Open> {
    let folder = DataFolder::open(&pipeline.data_dir, &pipeline.name)?;
    // Where dead letters go to a sink it may still hold those from before: they are shown, replayed
    // and purged all the same.
    let store = DeadLetterStore::new(&folder, pipeline.dead_letters.common.retention.0);
    if let DeadLetterTarget::Embedded = pipeline.dead_letters.to {
        let depth = Arc::new(Depth { pipeline: pipeline.name.clone(), store: store.clone() });
        host.metrics.watch_for_ever(depth);
    }
    let (context, elsewhere) = (ReplayContext::of(&pipeline), elsewhere(&pipeline));
    let mut parts = assemble(pipeline, &folder, host, None)?;
    parts.letters = letters;
    let socket = SocketServer::bind(&folder)?;
    let source = parts.source.name.clone();
    let running = start(parts, stop.clone());
    let reloader = Reloader::new(started, host.clone(), &source, &running);
    let attach = running.attach.clone();
    let service = Service { folder: folder.clone(), store, elsewhere, context, attach };
    Ok(Open { running, folder, socket, service, reloader })
}

impl Open {
    /// Waits until the pipeline has ended. Then its data folder is free again.
    async fn run(self, hangups: watch::Receiver<()>) -> anyhow::Result<Snapshot> {
        let Open { running, folder, socket, service, reloader } = self;
        let ended = CancellationToken::new();
        let mut beside = JoinSet::new();
        let (store, has_ended) = (service.store.clone(), ended.clone());
        beside.spawn(async move {
            has_ended.run_until_cancelled(purge_now_and_then(store)).await;
        });
        let has_ended = ended.clone();
        beside.spawn(async move {
            has_ended.run_until_cancelled(reloader.run(hangups)).await;
        });
        let has_ended = ended.clone();
        beside.spawn(async move {
            if let Err(error) = socket.serve(service, has_ended).await {
                tracing::error!(error = format!("{error:#}"), "the admin socket has failed");
            }
        });
        let result = running.wait().await;
        ended.cancel();
        while beside.join_next().await.is_some() {}
        drop(folder);
        result
    }
}

/// Sets the depth of the dead letters when somebody looks.
struct Depth {
    pipeline: String,
    store: DeadLetterStore,
}

impl Observed for Depth {
    fn observe(&self, metrics: &Metrics) {
        match self.store.depth() {
            Ok(depth) => metrics.dead_letter_depth.with_label_values(&[&self.pipeline]).set(depth as i64),
            Err(error) => {
                tracing::warn!(pipeline = %self.pipeline, error = format!("{error:#}"), "dead letters cannot be counted");
            }
        }
    }
}

async fn purge_now_and_then(store: DeadLetterStore) {
    let interval = store.retention().clamp(*PURGE_INTERVALS.start(), *PURGE_INTERVALS.end());
    loop {
        let store = store.clone();
        let now_ms = jiff::Timestamp::now().as_millisecond();
        match tokio::task::spawn_blocking(move || store.purge_expired(now_ms)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => tracing::info!(count, "dead letters past their retention were deleted"),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "dead letters past their retention cannot be deleted"
                );
            }
            Err(error) => tracing::error!(%error, "deleting dead letters panicked"),
        }
        tokio::time::sleep(interval).await;
    }
}

/// SIGHUPs, also those that come before somebody listens. One that comes because the terminal is gone,
/// and with it the one who started this, stops the pipelines as SIGTERM does.
fn hangups(stop: &CancellationToken) -> anyhow::Result<watch::Receiver<()>> {
    let mut hangups = signal(SignalKind::hangup()).context("SIGHUP cannot be waited for")?;
    let has_terminal = || std::fs::File::open("/dev/tty").is_ok();
    let had_terminal = has_terminal();
    let (sender, receiver) = watch::channel(());
    let stop = stop.clone();
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            if had_terminal && !has_terminal() {
                tracing::info!("the terminal is gone; stopping");
                stop.cancel();
            } else {
                sender.send_replace(());
            }
        }
    });
    Ok(receiver)
}

/// The first SIGTERM or SIGINT stops the pipelines from front to back (P8); a second SIGINT ends the
/// process at once, which loses nothing either.
pub(super) fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be waited for")?;
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: what is in flight is brought to its end");
        stopped.cancel();
        interrupt.recv().await;
        tell("stopped at once; what was in flight will be read again");
        std::process::exit(130);
    });
    Ok(stop)
}

/// `letters_of` is the pipeline's file, if its dead letters are in the embedded store.
fn report(name: &str, letters_of: Option<&Path>, snapshot: &Snapshot) {
    let Books { received, delivered, filtered, dead_lettered, returned, .. } = snapshot.books;
    let mut line = format!(
        "{name}: read {received}, delivered {delivered}, filtered {filtered}, dead letters {dead_lettered}"
    );
    if returned > 0 {
        line.push_str(&format!(", given back to the source {returned}"));
    }
    if let (1.., Some(file)) = (dead_lettered, letters_of) {
        line.push_str(&format!(" (millstream dlq list {})", file.display()));
    }
    tell(line);
}

/// Draws a line for each pipeline, on a terminal.
async fn draw_progress(pipelines: Vec<(Arc<Shared>, Arc<SharedProgress>)>) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let style =
        ProgressStyle::with_template("{prefix:.bold} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let lines: Vec<(Arc<Shared>, Arc<SharedProgress>, ProgressBar)> = pipelines
        .into_iter()
        .map(|(shared, progress)| {
            let bar = PROGRESS.add(ProgressBar::new_spinner().with_style(style.clone()));
            bar.set_prefix(shared.name.clone());
            (shared, progress, bar)
        })
        .collect();
    let mut before = vec![0u64; lines.len()];
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        interval.tick().await;
        for ((shared, progress, bar), before) in lines.iter().zip(&mut before) {
            let books = shared.ledger.books();
            let rate = (books.received - *before) as f64 / PROGRESS_INTERVAL.as_secs_f64();
            *before = books.received;
            let far = progress.get().map_or_else(String::new, |progress| {
                format!(", {:.0} % read", 100.0 * progress.read_bytes as f64 / progress.total_bytes as f64)
            });
            let waits = match shared.waits.reasons().first() {
                Some((part, _)) => format!(", waiting for {part}"),
                None => String::new(),
            };
            bar.set_message(format!(
                "{} messages, {rate:.0}/s, {} delivered, {} dead letters{far}{waits}",
                books.received, books.delivered, books.dead_lettered
            ));
        }
    }
}
