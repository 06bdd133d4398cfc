//! The stand-ins, by npm, pip and Maven.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::super::installed;
use super::super::python::venv;
use crate::support::repository;

const NODE: &str = "this test needs Node with npm: apt-get install nodejs npm";

const JAVA: &str = "this test needs Java and Maven: apt-get install openjdk-17-jdk-headless maven";

/// The folder with ElasticMQ in `libs`.
pub fn elasticmq() -> PathBuf {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    let install = || {
        installed::once("elasticmq", include_str!("pom.xml"), |folder| {
            let mut maven = Command::new("mvn");
            maven.args(["--batch-mode", "--quiet", "dependency:copy-dependencies", "--file"]);
            maven.arg(repository().join("tests/services/aws/pom.xml"));
            maven.arg(format!("-DoutputDirectory={}", folder.join("libs").display()));
            installed::run(&mut maven, JAVA);
        })
    };
    INSTALLED.get_or_init(install).clone()
}

/// The folder with `node_modules` and our scripts.
pub fn node() -> PathBuf {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    let install = || {
        let files = [
            ("package.json", include_str!("package.json")),
            ("package-lock.json", include_str!("package-lock.json")),
            ("fauxqs.mjs", include_str!("fauxqs.mjs")),
            ("loopback.cjs", include_str!("loopback.cjs")),
        ];
        let wanted: String = files.iter().map(|(_, text)| *text).collect();
        installed::once("aws-node", &wanted, |folder| {
            for (name, text) in files {
                std::fs::write(folder.join(name), text).expect("a file of the stand-ins");
            }
            let mut npm = Command::new("npm");
            npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]).current_dir(folder);
            installed::run(&mut npm, NODE);
        })
    };
    INSTALLED.get_or_init(install).clone()
}

/// The Python of a virtual environment with moto, boto3 and the extended client.
pub fn python() -> PathBuf {
    venv("aws-python", &repository().join("tests/services/aws/requirements.txt"))
}
