//! What all end-to-end tests need: the real binary, in a folder of its own, with deadlines.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::MethodRouter;
use tokio::runtime::Runtime;

/// No single event of a test takes longer, on a slow machine under load.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Rounds of a test: `all` in `make soak`, `few` otherwise. Says how many.
pub fn rounds(what: &str, few: usize, all: usize) -> usize {
    let rounds = if std::env::var_os("MILLSTREAM_SOAK").is_some() { all } else { few };
    println!("{what}: {rounds} rounds (`make soak`: {all})");
    rounds
}

/// A seed that can be given again; printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let given = std::env::var("MILLSTREAM_TEST_SEED").ok();
    let seed =
        given.map_or_else(rand::random, |seed| seed.parse().expect("MILLSTREAM_TEST_SEED is a number"));
    println!("seed {seed} (MILLSTREAM_TEST_SEED={seed} repeats it)");
    seed
}

/// A folder that is deleted at the end.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder for the test"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file for the test");
        path
    }

    /// The lines of a file; none if it is not there.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// The binary under test, its environment without what this machine may have set.
pub fn millstream(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(arguments).env_remove("MILLSTREAM_LOG").stdin(Stdio::null());
    command
}

/// The folder of this repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository is there")
}

/// Puts these files of a folder of the repository into that of a test, with the packages that its
/// `package-lock.json` names.
pub fn npm_ci(folder: &Folder, from: &str, files: &[&str]) {
    for file in ["package.json", "package-lock.json"].iter().chain(files) {
        std::fs::copy(repository().join(from).join(file), folder.path(file)).expect("a file of the test");
    }
    let mut install = Command::new("npm");
    install.args(["ci", "--no-audit", "--no-fund", "--silent"]).current_dir(folder.path(""));
    let installed = install.output().expect("this test needs Node with npm: apt-get install nodejs npm");
    assert!(installed.status.success(), "npm ci: {}", String::from_utf8_lossy(&installed.stderr));
}

/// For servers of the test, beside it.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A server of the test on a port of its own; returns its url.
pub fn serve<S: Clone + Send + Sync + 'static>(
    runtime: &Runtime,
    handler: MethodRouter<S>,
    state: S,
) -> String {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let server = Router::new().route("/", handler).with_state(state);
    runtime.spawn(async move { axum::serve(listener, server).await });
    url
}

/// A client for servers on this machine.
pub fn http_client() -> reqwest::Client {
    millstream::tls::install_provider();
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client")
}

/// A guest that was built to WebAssembly.
pub fn guest(name: &str) -> PathBuf {
    let folder = std::env::var_os("MILLSTREAM_PLUGINS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/plugins"));
    let path = folder.join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is not there; run `make plugins`", path.display());
    path.canonicalize().expect("it is there")
}

/// A data folder for `--data-dir`, with what other tests have compiled.
pub fn data_folder(folder: &Folder) -> PathBuf {
    let (data, cache) = (folder.path("data"), concat!(env!("CARGO_TARGET_TMPDIR"), "/compiled"));
    std::fs::create_dir_all(cache).and_then(|()| std::fs::create_dir(&data)).expect("folders for data");
    std::os::unix::fs::symlink(cache, data.join("cache")).expect("a link");
    data
}

/// Runs the binary to its end.
pub fn run(arguments: &[&str]) -> (ExitStatus, String, String) {
    let output = millstream(arguments).output().expect("the binary starts");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status, text(&output.stdout), text(&output.stderr))
}

/// `millstream run` in the background; killed when the test forgets it.
pub struct Running {
    child: Child,
    log: PathBuf,
    /// What earlier processes left in the log.
    earlier: usize,
}

impl Running {
    pub fn start(folder: &Folder, pipeline: &Path) -> Running {
        let pipeline = pipeline.to_str().expect("a path in UTF-8");
        let mut command = millstream(&["run", pipeline, "--admin", "127.0.0.1:0"]);
        command.env("WEBHOOK_SECRET", "It's a Secret to Everybody").stdout(Stdio::null());
        Running::of(folder, &mut command)
    }

    /// Another command, whose standard error is its log.
    pub fn of(folder: &Folder, command: &mut Command) -> Running {
        let log = folder.path("log");
        let stderr = File::options().create(true).append(true).open(&log).expect("a log file");
        let earlier = stderr.metadata().expect("its length").len() as usize;
        let child = command.stderr(stderr).spawn().expect("the binary starts");
        Running { child, log, earlier }
    }

    pub fn log(&self) -> String {
        let mut text = String::new();
        File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text)).expect("the log is there");
        text
    }

    /// Waits until this process has logged a line with `text`, and returns what follows `addr=` in it.
    pub fn address(&mut self, text: &str) -> String {
        let mut found = None;
        let what = format!("a line {text:?} in the log");
        self.wait_for(&what, |running| {
            let log = running.log();
            let line =
                log[running.earlier..].lines().find(|line| line.contains(text) && line.contains("addr="));
            found =
                line.and_then(|line| Some(line.split_once("addr=")?.1.split_whitespace().next()?.to_owned()));
            found.is_some()
        });
        found.expect("it was found")
    }

    /// Waits for something to happen while the process runs.
    pub fn wait_for(&mut self, what: &str, mut happened: impl FnMut(&Running) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !happened(self) {
            if let Some(status) = self.child.try_wait().expect("the process can be asked") {
                panic!("it ended with {status} before: {what}\n{}", self.log());
            }
            assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resident memory as the system counts it, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.bytes("VmRSS:")
    }

    /// The most that was resident so far, in bytes; 0 once it has ended.
    pub fn peak_bytes(&self) -> u64 {
        self.bytes("VmHWM:")
    }

    /// Has [`Running::peak_bytes`] begin anew.
    pub fn forget_peak(&self) {
        // See proc_pid_clear_refs(5).
        let file = format!("/proc/{}/clear_refs", self.child.id());
        std::fs::write(file, "5").expect("the peak of a process of our own can be forgotten");
    }

    fn bytes(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0 kB");
        let kib: u64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        kib * 1024
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the process can be asked").is_some()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM; the log stays in its file.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    /// SIGSTOP: it does nothing any more, and nobody is told.
    pub fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it can be told");
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the process can be asked") {
                return status;
            }
            assert!(Instant::now() < end, "it does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, or nobody needs it any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the admin server of a process answers, its status first; `None` if it has ended, or does not
/// answer in time.
pub fn ask(admin: &str, path: &str) -> Option<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let request = http_client().get(format!("http://{admin}{path}")).timeout(Duration::from_secs(5));
        let response = request.send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    })
}

/// The metrics of a running process, in which the books balance (P11); `None` before they are open,
/// and once it has ended.
pub fn look(admin: &str) -> Option<String> {
    let (_, page) = ask(admin, "/metrics")?;
    metric(&page, "millstream_messages", &["account=\"received\""])?;
    balanced(&page);
    Some(page)
}

/// The number of the one line of a page of metrics that has this name and these labels.
pub fn metric(page: &str, name: &str, labels: &[&str]) -> Option<u64> {
    let is_it = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|label| line.contains(label))
    };
    page.lines().find(is_it)?.rsplit(' ').next()?.parse().ok()
}

/// Checks that the books of a page of metrics balance (P11): those of each pipeline, and of each of its
/// sinks.
fn balanced(page: &str) {
    let sum = |name: &str, labels: &[&str], accounts: &[&str]| -> u64 {
        let of = |account: &&str| {
            let account = format!("account=\"{account}\"");
            metric(page, name, &[labels, &[&account]].concat())
                .unwrap_or_else(|| panic!("no {account} of {name} {labels:?} in\n{page}"))
        };
        accounts.iter().map(of).sum()
    };
    let values = |name: &str, account: &str, label: &str| -> Vec<String> {
        let account = format!("account=\"{account}\"");
        let lines = page.lines().filter(|line| line.starts_with(name) && line.contains(&account));
        let value = |line: &str| Some(line.split_once(label)?.1.split('"').nth(1)?.to_owned());
        lines.filter_map(value).collect()
    };
    let name = "millstream_messages";
    for pipeline in values(name, "received", "pipeline=") {
        let labels = [&*format!("pipeline=\"{pipeline}\"")];
        let left = sum(name, &labels, &["received", "added"]);
        let right = sum(name, &labels, &["delivered", "filtered", "dead_lettered", "returned", "in_flight"]);
        assert_eq!(left, right, "the books of {pipeline} do not balance:\n{page}");
    }
    let name = "millstream_sink_messages";
    let pipelines = values(name, "offered", "pipeline=");
    for (pipeline, sink) in pipelines.into_iter().zip(values(name, "offered", "sink=")) {
        let labels = [&*format!("pipeline=\"{pipeline}\""), &*format!("sink=\"{sink}\"")];
        let left = sum(name, &labels, &["offered"]);
        let right = sum(name, &labels, &["delivered", "dead_lettered", "returned", "in_flight"]);
        assert_eq!(left, right, "the books of {labels:?} do not balance:\n{page}");
    }
}
