//! The admin socket: how `dlq` and `checkpoint` work while a pipeline runs and owns its data folder.
//!
//! HTTP over a Unix socket in the data folder, which only its owner can open. What is said is JSON,
//! between two processes of the same version.

use std::fs::Permissions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::dead_letters::filter::Filter;
use crate::dead_letters::replay::{ReplayContext, Summary, replay};
use crate::dead_letters::store::{Cursor, DeadLetterStore, Page};
use crate::dead_letters::{Attach, Elsewhere};
use crate::store::DataFolder;
use crate::store::folder::SavedCheckpoint;

const PAGE: &str = "/dead-letters/page";
const END: &str = "/dead-letters/end";
const COUNT: &str = "/dead-letters/count";
const PURGE: &str = "/dead-letters/purge";
const PURGE_EXPIRED: &str = "/dead-letters/purge-expired";
const REPLAY: &str = "/dead-letters/replay";
const CHECKPOINTS: &str = "/checkpoints";

/// A filter may name many ids.
const BODY_BYTES: usize = 64 << 20;

/// How long a stop waits for answers that are on their way: that of a replay, say, which ends with
/// the pipeline. A client that does not take its answer holds up nothing for longer.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A path of a socket is at most 107 bytes on Linux (unix(7)).
const PATH_BYTES: usize = 100;

#[derive(Serialize, Deserialize)]
struct PageRequest {
    filter: Filter,
    after: Cursor,
    end: Cursor,
}

#[derive(Serialize, Deserialize)]
struct ReplayRequest {
    filter: Filter,
    force: bool,
}

/// What a running pipeline gives to those who ask.
#[derive(Clone)]
pub struct Service {
    pub folder: DataFolder,
    pub store: DeadLetterStore,
    /// Where more dead letters are.
    pub elsewhere: Option<Arc<dyn Elsewhere>>,
    pub context: ReplayContext,
    /// Takes replays to be read beside the source.
    pub attach: mpsc::Sender<Attach>,
}

/// The admin socket of a pipeline; its file goes when this is dropped.
pub struct SocketServer {
    listener: Option<UnixListener>,
    path: PathBuf,
}

#[derive(Clone)]
struct Serving {
    service: Service,
    replaying: Arc<Mutex<()>>,
}

impl SocketServer {
    /// Listens in the data folder. One that a killed process left behind is replaced: the lock of
    /// the folder says that nobody listens there.
    pub fn bind(folder: &DataFolder) -> anyhow::Result<SocketServer> {
        let path = DataFolder::socket(folder.path());
        let what = || format!("cannot listen on the admin socket {}", path.display());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(what);
            }
            _ => {}
        }
        let short = ShortPath::of(&path).with_context(what)?;
        let listener = UnixListener::bind(&short.path).with_context(what)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).with_context(what)?;
        Ok(SocketServer { listener: Some(listener), path })
    }

    /// Answers until `stop`; what was asked before gets its answer yet.
    pub async fn serve(mut self, service: Service, stop: CancellationToken) -> anyhow::Result<()> {
        let Some(listener) = self.listener.take() else { bail!("the admin socket is served already") };
        let router = Router::new()
            .route(PAGE, post(page))
            .route(END, post(end))
            .route(COUNT, post(count))
            .route(PURGE, post(purge))
            .route(PURGE_EXPIRED, post(purge_expired))
            .route(REPLAY, post(run_replay))
            .route(CHECKPOINTS, post(checkpoints))
            .layer(DefaultBodyLimit::max(BODY_BYTES))
            .with_state(Serving { service, replaying: Arc::default() });
        let all_answered =
            axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let last_moment = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        tokio::select! {
            result = all_answered.into_future() => result.context("the admin socket failed"),
            () = last_moment => Ok(()),
        }
    }
}

impl Drop for SocketServer {
    fn drop(&mut self) {
        // If it cannot be removed the next process does.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A path to a socket that is not too long for the system, by way of its open folder if need be.
struct ShortPath {
    path: PathBuf,
    _folder: Option<OwnedFd>,
}

impl ShortPath {
    fn of(socket: &Path) -> anyhow::Result<ShortPath> {
        if socket.as_os_str().len() <= PATH_BYTES {
            return Ok(ShortPath { path: socket.to_owned(), _folder: None });
        }
        let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
            bail!("{} is no path of a file", socket.display());
        };
        let folder =
            rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        Ok(ShortPath { path, _folder: Some(folder) })
    }
}

/// An error as an answer; the client prints its text.
struct Refused(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Refused {
    fn from(error: E) -> Refused {
        Refused(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}", self.0)).into_response()
    }
}

type Answer = Result<Vec<u8>, Refused>;

async fn blocking<T: Serialize + Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Answer {
    tokio::task::spawn_blocking(move || Ok(serde_json::to_vec(&work()?)?)).await?
}

async fn page(State(serving): State<Serving>, body: Bytes) -> Answer {
    let PageRequest { filter, after, end } = serde_json::from_slice(&body)?;
    blocking(move || serving.service.store.page(&filter, after, end)).await
}

async fn end(State(serving): State<Serving>) -> Answer {
    blocking(move || serving.service.store.end()).await
}

async fn count(State(serving): State<Serving>, body: Bytes) -> Answer {
    let filter: Filter = serde_json::from_slice(&body)?;
    blocking(move || serving.service.store.count(&filter)).await
}

async fn purge(State(serving): State<Serving>, body: Bytes) -> Answer {
    let filter: Filter = serde_json::from_slice(&body)?;
    blocking(move || serving.service.store.purge(&filter)).await
}

async fn purge_expired(State(serving): State<Serving>) -> Answer {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    blocking(move || serving.service.store.purge_expired(now_ms)).await
}

async fn checkpoints(State(serving): State<Serving>) -> Answer {
    blocking(move || serving.service.folder.saved_checkpoints()).await
}

async fn run_replay(State(serving): State<Serving>, body: Bytes) -> Answer {
    let ReplayRequest { filter, force } = serde_json::from_slice(&body)?;
    // Two at once could replay the same message twice.
    let Ok(only_one) = serving.replaying.try_lock_owned() else {
        return Err(anyhow!("a replay of this pipeline is running already; wait for its end").into());
    };
    let Service { store, elsewhere, context, attach, .. } = serving.service;
    // A task of its own: it goes on when the one who asked goes away.
    let replay = tokio::spawn(async move {
        let _only_one = only_one;
        // Before anything is replayed: what fails again comes there, and is not replayed twice.
        let copy = match elsewhere {
            Some(elsewhere) => Some(tokio::task::spawn_blocking(move || elsewhere.copy()).await??),
            None => None,
        };
        let mut run = |source| {
            let attach = attach.clone();
            async move {
                let (done, ended) = oneshot::channel();
                let stopped = "the pipeline stopped before the replay had ended; what was not settled is a dead letter as before";
                attach.send(Attach { source, done }).await.map_err(|_| anyhow!(stopped))?;
                ended.await.map_err(|_| anyhow!(stopped))?
            }
        };
        let mut summary = replay(&store, &context, &filter, force, &mut run).await?;
        if let Some(copy) = copy.filter(|_| !summary.stopped) {
            summary.add(replay(&copy, &context, &filter, force, &mut run).await?);
        }
        anyhow::Ok(summary)
    });
    Ok(serde_json::to_vec(&replay.await??)?)
}

/// Asks a running pipeline.
pub struct Client {
    http: reqwest::Client,
    socket: PathBuf,
    _short: ShortPath,
}

impl Client {
    /// Makes a client for the process that has this data folder; connects to nothing yet.
    pub fn new(folder: &Path) -> anyhow::Result<Client> {
        crate::tls::install_provider();
        let socket = DataFolder::socket(folder);
        let short = ShortPath::of(&socket)?;
        let http = reqwest::Client::builder()
            .unix_socket(short.path.clone())
            .no_proxy()
            .tls_certs_only([])
            .build()
            .context("cannot make a client for the admin socket")?;
        Ok(Client { http, socket, _short: short })
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let request = self.http.post(format!("http://admin{path}")).body(serde_json::to_vec(body)?);
        let failed = || format!("no answer on the admin socket {}", self.socket.display());
        let response = request.send().await.with_context(failed)?;
        let status = response.status();
        let answer = response.bytes().await.with_context(failed)?;
        if !status.is_success() {
            bail!("the running pipeline refuses: {}", String::from_utf8_lossy(&answer));
        }
        serde_json::from_slice(&answer).context(
            "the running pipeline answers with something else than expected; is it of another version?",
        )
    }

    pub async fn page(&self, filter: &Filter, after: Cursor, end: Cursor) -> anyhow::Result<Page> {
        self.ask(PAGE, &PageRequest { filter: filter.clone(), after, end }).await
    }

    pub async fn end(&self) -> anyhow::Result<Cursor> {
        self.ask(END, &()).await
    }

    pub async fn count(&self, filter: &Filter) -> anyhow::Result<u64> {
        self.ask(COUNT, filter).await
    }

    pub async fn purge(&self, filter: &Filter) -> anyhow::Result<u64> {
        self.ask(PURGE, filter).await
    }

    pub async fn purge_expired(&self) -> anyhow::Result<u64> {
        self.ask(PURGE_EXPIRED, &()).await
    }

    /// Returns when the replay has ended, which may take as long as its sinks are down.
    pub async fn replay(&self, filter: &Filter, force: bool) -> anyhow::Result<Summary> {
        self.ask(REPLAY, &ReplayRequest { filter: filter.clone(), force }).await
    }

    pub async fn checkpoints(&self) -> anyhow::Result<Vec<SavedCheckpoint>> {
        self.ask(CHECKPOINTS, &()).await
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
