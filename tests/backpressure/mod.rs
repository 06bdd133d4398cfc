//! P6: a slow sink never grows the process.

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;

use crate::support::{Folder, Running, rounds};

const BUDGET: u64 = 64 << 20;
const BESIDE: u64 = 60 << 20;

#[test]
fn p6_2_gib_into_a_sink_100_times_slower_stay_within_the_budget_and_sigterm_ends_in_time() {
    let seconds = rounds("seconds of pressure", 10, 90) as u64;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("an address");
    // 16 KiB every 10 ms in four requests at once are 6 MB a second; the source makes far more than
    // a hundred times as much.
    let slow = || async {
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let server = Router::new().route("/", post(slow));
    runtime.spawn(async move { axum::serve(listener, server).await });

    let folder = Folder::new();
    let pipeline = folder.write(
        "worker.toml",
        &format!(
            r#"
name = "worker"
ordering = "none"
budget = "64MiB"
shutdown_timeout = "3s"
[source]
type = "generate"
payload_bytes = 16384
count = 131072
[[plugin]]
use = "route"
config.default = ["out"]
config.rules = []
[[sink]]
type = "http"
url = "http://{address}/"
concurrency = 4
batch = 16
"#
        ),
    );
    let mut running = Running::start(&folder, &pipeline);
    let mut most = 0;
    let end = Instant::now() + Duration::from_secs(seconds);
    running.wait_for("the time of pressure", |running| {
        most = most.max(running.resident_bytes());
        Instant::now() >= end
    });
    assert!(most > BUDGET / 2, "{most} bytes are no pressure");
    assert!(most <= BUDGET + BESIDE, "{most} bytes resident, {} allowed\n{}", BUDGET + BESIDE, running.log());
    let told = Instant::now();
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
    assert!(told.elapsed() < Duration::from_secs(3 + 5), "it took {:?} to stop", told.elapsed());
}
