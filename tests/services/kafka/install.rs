//! Apache Kafka as Maven resolves it, and the programs of `java/` compiled against it: once for a
//! target folder.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::super::installed;

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

fn install() -> PathBuf {
    let mut wanted = include_str!("pom.xml").to_owned();
    wanted.extend(PROGRAMS.iter().map(|(_, text)| *text));
    installed::once("kafka", &wanted, |folder| {
        let libs = folder.join("libs");
        let mut maven = Command::new("mvn");
        maven.args([
            "--batch-mode",
            "--quiet",
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            "--file",
        ]);
        maven.arg(source("pom.xml")).arg(format!("-DoutputDirectory={}", libs.display()));
        installed::run(&mut maven, NEEDS);
        let mut javac = Command::new("javac");
        javac.args(["--release", "17", "-cp", &format!("{}/*", libs.display()), "-d"]);
        javac.arg(folder.join("classes"));
        javac.args(PROGRAMS.iter().map(|(name, _)| source("java").join(name)));
        installed::run(&mut javac, NEEDS);
    })
}
