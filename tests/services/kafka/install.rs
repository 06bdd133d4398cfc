//! Apache Kafka as Maven resolves it, and the programs of `java/` compiled against it: once for a
//! target folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PROGRAMS: &[(&str, &str)] = &[
    ("Check.java", include_str!("java/Check.java")),
    ("Client.java", include_str!("java/Client.java")),
    ("Topic.java", include_str!("java/Topic.java")),
];

const NEEDS: &str =
    "this test needs Java 17 with its compiler, and Maven: apt-get install openjdk-17-jdk-headless maven";

fn source(name: &str) -> PathBuf {
    crate::support::repository().join("tests/services/kafka").join(name)
}

/// A `java` with Kafka and the programs in its class path; the class to run comes next.
pub fn java(options: &[&str]) -> Command {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    let folder = INSTALLED.get_or_init(install);
    let mut command = Command::new("java");
    command.args(["-XX:+UseSerialGC", "-Djava.net.preferIPv4Stack=true"]).args(options);
    command.arg(format!("-Dlog4j2.configurationFile={}", source("log4j2.properties").display()));
    command.arg("-cp").arg(format!("{0}/libs/*:{0}/classes", folder.display()));
    command
}

/// One test process installs, the others wait for it.
fn install() -> PathBuf {
    // Under it is `tmp`, which Cargo makes for tests.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is under the target folder");
    let services = target.join("services");
    std::fs::create_dir_all(&services).expect("a folder for services");
    let lock = File::create(services.join("kafka.lock")).expect("a file to lock");
    lock.lock().expect("files can be locked");

    let mut wanted = include_str!("pom.xml").to_owned();
    wanted.extend(PROGRAMS.iter().map(|(_, text)| *text));
    let folder = services.join("kafka");
    let made_of = folder.join("made-of");
    if std::fs::read_to_string(&made_of).is_ok_and(|made_of| made_of == wanted) {
        return folder;
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("what was installed can be removed");
    }
    let libs = folder.join("libs");
    run(Command::new("mvn")
        .args(["--batch-mode", "--quiet", "dependency:copy-dependencies", "-DincludeScope=runtime", "--file"])
        .arg(source("pom.xml"))
        .arg(format!("-DoutputDirectory={}", libs.display())));
    let programs = PROGRAMS.iter().map(|(name, _)| source("java").join(name));
    run(Command::new("javac")
        .args(["--release", "17", "-cp", &format!("{}/*", libs.display()), "-d"])
        .arg(folder.join("classes"))
        .args(programs));
    std::fs::write(&made_of, wanted).expect("it can be noted");
    folder
}

fn run(command: &mut Command) {
    let output = command.output().expect(NEEDS);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}\n{NEEDS}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
}
