//! A server that is not there for a while: no message's fault, so nothing becomes a dead letter.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use tokio::net::TcpSocket;

use super::{assert_in_order, dead_letters, number, pipeline, runtime, serve};
use crate::support::{Folder, Running, ask, look, metric, rounds};

const KEYS: u64 = 5;
const MESSAGES: u64 = 200;
const RETRY: &str = "base_delay = \"20ms\"\nmax_delay = \"1s\"\nmax_attempts = 2";

#[derive(Default)]
struct World {
    /// Payloads it said 200 to, in order.
    taken: Mutex<Vec<String>>,
    /// Until then it is down: 503.
    down_until_ms: AtomicU64,
}

impl World {
    /// Everything arrived once, in order; this is told when the pipeline has ended.
    fn assert_has_everything_once(&self) {
        let taken = self.taken.lock().expect("no panic");
        assert_eq!(assert_in_order(taken.iter().map(|body| number(body)), KEYS), MESSAGES);
        assert_eq!(taken.len() as u64, MESSAGES, "an outage repeats nothing");
    }

    fn has_everything(&self) -> bool {
        self.taken.lock().expect("no panic").len() as u64 >= MESSAGES
    }
}

async fn take(State(world): State<Arc<World>>, body: Bytes) -> StatusCode {
    let now = jiff::Timestamp::now().as_millisecond() as u64;
    if now < world.down_until_ms.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    world.taken.lock().expect("no panic").push(String::from_utf8_lossy(&body).into_owned());
    StatusCode::OK
}

fn is_unready(admin: &str) -> bool {
    ask(admin, "/readyz").is_some_and(|(status, _)| status == 503)
}

#[test]
fn an_outage_dead_letters_nothing() {
    let seconds = rounds("seconds of outage", 8, 60) as u64;
    let runtime = runtime();
    let world = Arc::new(World::default());
    let until = jiff::Timestamp::now().as_millisecond() as u64 + seconds * 1000;
    world.down_until_ms.store(until, Ordering::Relaxed);
    let url = serve(&runtime, post(take), Arc::clone(&world));
    let folder = Folder::new();
    let file = pipeline(&folder, MESSAGES, KEYS, &format!("url = \"{url}\""), RETRY);
    let mut running = Running::start(&folder, &file);
    let admin = running.address("admin server listening");
    let mut was_unready = false;
    let begun = Instant::now();
    running.wait_for("everything is delivered", |_| {
        if begun.elapsed() < Duration::from_secs(seconds) {
            look(&admin);
            was_unready |= is_unready(&admin);
        }
        world.has_everything()
    });
    assert!(running.end().success(), "{}", running.log());
    assert!(was_unready, "an outage shows in /readyz");
    assert!(dead_letters(&file).is_empty());
    world.assert_has_everything_once();
}

#[test]
fn a_server_that_refuses_connections_is_waited_for() {
    let runtime = runtime();
    // Bound, so that nobody else has the port, and not listened to, so that connections are refused.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let url = format!("http://{}/", socket.local_addr().expect("an address"));
    let folder = Folder::new();
    let file = pipeline(&folder, MESSAGES, KEYS, &format!("url = \"{url}\""), RETRY);
    let mut running = Running::start(&folder, &file);
    let admin = running.address("admin server listening");
    running.wait_for("more tries than a message has attempts", |_| {
        let tries = |page: String| {
            metric(&page, "messaging_errors_total", &["type=\"sink:out\"", "error_type=\"unavailable\""])
        };
        look(&admin).and_then(tries).unwrap_or(0) > 3
    });
    assert!(is_unready(&admin), "a server that is not there shows in /readyz");
    let page = look(&admin).expect("it still waits");
    assert_eq!(metric(&page, "millstream_messages", &["account=\"dead_lettered\""]), Some(0), "{page}");
    assert_eq!(metric(&page, "millstream_sink_unavailable", &["sink=\"out\""]), Some(1), "{page}");
    let log = running.log();
    assert!(log.contains("cannot connect to") && log.contains("the sink is unavailable"), "{log}");

    let world = Arc::new(World::default());
    let server = Router::new().route("/", post(take)).with_state(Arc::clone(&world));
    runtime.spawn(async move { axum::serve(socket.listen(128).expect("it listens"), server).await });
    running.wait_for("everything is delivered", |_| world.has_everything());
    assert!(running.end().success(), "{}", running.log());
    assert!(dead_letters(&file).is_empty());
    world.assert_has_everything_once();
}
