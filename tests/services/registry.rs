//! Apicurio Registry, a schema registry that speaks Confluent's API; with its store in memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::installed;
use super::server::{Server, free_port};
use crate::support::DEADLINE;

/// Later ones want a newer Java than 17.
const VERSION: &str = "3.0.9";

const NEEDS: &str = "this test needs Java 17, Maven and tar: apt-get install openjdk-17-jdk-headless maven tar; \
                     and for the first run the repository of Maven";

pub struct SchemaRegistry {
    port: u16,
    folder: TempDir,
    /// None while it is down.
    server: Option<Server>,
}

impl SchemaRegistry {
    /// The one of all tests of this process, none of which stops it; each takes subjects of its own.
    pub fn shared() -> &'static SchemaRegistry {
        static SHARED: OnceLock<SchemaRegistry> = OnceLock::new();
        SHARED.get_or_init(SchemaRegistry::start)
    }

    /// One of the test's own.
    pub fn start() -> SchemaRegistry {
        let mut registry = SchemaRegistry::prepared();
        registry.run();
        registry
    }

    /// It has its address and does not run yet.
    pub fn prepared() -> SchemaRegistry {
        let folder = tempfile::Builder::new().prefix("registry-").tempdir().expect("a folder for a server");
        SchemaRegistry { port: free_port(), folder, server: None }
    }

    /// Starts it, empty, and waits until it answers.
    pub fn run(&mut self) {
        let log = self.folder.path().join("log");
        let command = &mut command(self.port, self.folder.path());
        let server = Server::start("Apicurio Registry".to_owned(), command, &log, self.folder.path());
        let end = Instant::now() + DEADLINE;
        while !self.answers() {
            server.assert_runs();
            assert!(Instant::now() < end, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.server = Some(server);
    }

    /// Whether it knows its subjects, of which there may be none.
    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut connection = TcpStream::connect(self.address())?;
            connection.set_read_timeout(Some(Duration::from_secs(10)))?;
            connection.write_all(b"GET /apis/ccompat/v7/subjects HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
    }

    /// SIGKILL. What it had is gone; it comes back with [`SchemaRegistry::run`] at the same address.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// It takes connections and answers nothing.
    pub fn pause(&self) {
        self.server.as_ref().expect("it runs").pause();
    }

    pub fn resume(&self) {
        self.server.as_ref().expect("it runs").resume();
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Of the API that clients of Confluent's registry want.
    pub fn url(&self) -> String {
        format!("http://{}/apis/ccompat/v7", self.address())
    }
}

fn command(port: u16, folder: &Path) -> Command {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    let installed = INSTALLED.get_or_init(install);
    let mut command = Command::new("java");
    // It lives for a few requests.
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m"]);
    command.arg(format!("-Djava.io.tmpdir={}", folder.display()));
    command.arg("-jar").arg(installed.join(format!("apicurio-registry-app-{VERSION}-runner.jar")));
    command.env("QUARKUS_HTTP_HOST", "127.0.0.1").env("QUARKUS_HTTP_PORT", port.to_string());
    command.env("HOME", folder);
    command
}

fn install() -> PathBuf {
    installed::once("registry", VERSION, |folder| {
        let mut maven = Command::new("mvn");
        maven.args(["--batch-mode", "--quiet", "dependency:copy"]);
        maven.arg(format!("-Dartifact=io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"));
        maven.arg(format!("-DoutputDirectory={}", folder.display()));
        installed::run(&mut maven, NEEDS);
        let archive = folder.join(format!("apicurio-registry-app-{VERSION}-all.tar.gz"));
        installed::run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(folder), NEEDS);
        std::fs::remove_file(&archive).expect("the archive can be removed");
    })
}
