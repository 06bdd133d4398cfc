//! The binary itself: memory when idle, and how fast it starts.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::rounds::Bench;

/// Three built-in plugins, and a source that waits.
const PIPELINE: &str = r#"
name = "idle"

[source]
type = "http"
listen = "127.0.0.1:0"

[[plugin]]
use = "verify-signature"
config = { header = "x-hub-signature-256", prefix = "sha256=", secret = "s" }

[[plugin]]
use = "validate-schema"
config = { schema = { file = "schema.json" } }

[[plugin]]
use = "jq"
config = { program = "{repo: .repository.full_name, by: .sender.login}" }

[[sink]]
type = "drop"
"#;

pub fn idle_and_start(bench: &Bench, folder: &Path) -> anyhow::Result<()> {
    let names = ["process: start to listening, warm cache / millstream --version", "process: idle memory"];
    if !names.iter().any(|name| bench.wants(name)) {
        return Ok(());
    }
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/data/github-webhooks.schema.json");
    std::fs::copy(schema, folder.join("schema.json"))?;
    let file = folder.join("idle.toml");
    std::fs::write(&file, PIPELINE)?;
    let start = || {
        let (mut idle, time) = Idle::start(&file).expect("the binary starts");
        idle.stop();
        time
    };
    // The first start, whose time does not count, fills the cache of compiled plugins.
    bench.pair(names[0], 11, (1, "start"), start, || version().expect("the binary starts"));
    if bench.wants(names[1]) {
        let (mut idle, _) = Idle::start(&file)?;
        let resident = idle.resident_kib()?;
        idle.stop();
        println!("{:<60} {:.1} MiB resident with 3 plugins", names[1], resident as f64 / 1024.0);
    }
    Ok(())
}

fn version() -> anyhow::Result<Duration> {
    let start = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_millstream")).arg("--version").output()?;
    anyhow::ensure!(output.status.success(), "{output:?}");
    Ok(start.elapsed())
}

struct Idle(Child);

impl Idle {
    /// Returns it when it listens, and the time until then.
    fn start(file: &Path) -> anyhow::Result<(Idle, Duration)> {
        let start = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_millstream"))
            .args(["run".as_ref(), file.as_os_str()])
            .args(["--admin", "127.0.0.1:0"])
            .env_remove("MILLSTREAM_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let idle = Idle(child);
        let mut text = String::new();
        while log.read_line(&mut text)? > 0 {
            if text.lines().last().is_some_and(|line| line.contains("listening") && line.contains("source")) {
                let time = start.elapsed();
                // Its log goes on; nobody reads it.
                std::thread::spawn(move || log.read_to_end(&mut Vec::new()));
                return Ok((idle, time));
            }
        }
        anyhow::bail!("it did not come to listen:\n{text}")
    }

    fn resident_kib(&mut self) -> anyhow::Result<u64> {
        let status = std::io::read_to_string(File::open(format!("/proc/{}/status", self.0.id()))?)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        kib.ok_or_else(|| anyhow::anyhow!("no resident memory in {status}"))
    }

    fn stop(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.stop();
        }
    }
}
