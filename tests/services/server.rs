//! Processes of servers, which end with the test process, however that ends.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rand::RngExt;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::support::DEADLINE;

/// Waits for the end of its input. If no line came before it, the test process has died without
/// stopping the server, and it does that. Servers may share a folder, and the others still write to it.
const WATCH: &str = r#"
trap "" HUP INT TERM
read -r stopped && exit
kill -KILL "$1"
for try in 1 2 3 4 5; do rm -rf -- "$2" && exit; sleep 1; done"#;

pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
    watchdog: Child,
    /// Says that the server was stopped.
    stopped: ChildStdin,
}

impl Server {
    /// `folder` is removed if the test process dies. What the server prints is added to the file `log`.
    pub fn start(name: String, command: &mut Command, log: &Path, folder: &Path) -> Server {
        let open = File::options().create(true).append(true).open(log).expect("a log of the server");
        let stderr = open.try_clone().expect("a second handle of the log");
        let child = command.stdin(Stdio::null()).stdout(open).stderr(stderr).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCH, "sh", &child.id().to_string()])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let stopped = watchdog.stdin.take().expect("it is piped");
        Server { name, child, log: log.to_owned(), watchdog, stopped }
    }

    /// Fails the test if the server has ended by itself.
    pub fn assert_runs(&self) {
        let now = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = waitid(WaitId::Pid(Pid::from_child(&self.child)), now);
        if let Some(status) = ended.expect("the process can be asked") {
            panic!("{} ended: {status:?}\n{}", self.name, self.log());
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, and SIGKILL if that does not end it in time.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let end = Instant::now() + DEADLINE;
        while self.child.try_wait().expect("the process can be asked").is_none() {
            if Instant::now() > end {
                eprintln!("{} does not end by itself\n{}", self.name, self.log());
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child that was not waited for");
    }
}

/// SIGKILL: nobody needs what it has on the disk.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.stopped.write_all(b"stopped\n");
        let _ = self.watchdog.wait();
    }
}

/// A port that nobody has. Not one of those that the system gives to clients: such a port could be
/// taken while a server that is to come back there is down.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().expect("no panic");
    let given = given.get_or_insert_default();
    loop {
        let port = rand::rng().random_range(15_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && given.insert(port) {
            return port;
        }
    }
}
