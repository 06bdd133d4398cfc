//! The official test suite of JSON Schema, as the source package of Python's `jsonschema` carries it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::services::installed;

/// The package with the suite in it. It is not built, but pip reads what it says of itself, which takes
/// what it would be built with.
const PACKAGE: &str = "jsonschema==4.26.0";
const BUILT_WITH: [&str; 3] = ["hatchling", "hatch-vcs", "hatch-fancy-pypi-readme"];

const PYTHON: &str =
    "this test needs Python with venv, and PyPI for its first run: apt-get install python3 python3-venv";

/// The folder with the suite: `tests/` and `remotes/`.
pub fn suite() -> PathBuf {
    installed::once("json-schema-test-suite", PACKAGE, |folder| {
        let python = folder.join("python");
        installed::run(Command::new("python3").args(["-m", "venv"]).arg(&python), PYTHON);
        let pip = |arguments: &[&str]| {
            let mut pip = Command::new(python.join("bin/python"));
            pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]).args(arguments);
            installed::run(pip.current_dir(folder), PYTHON);
        };
        pip(&[&["install"], &BUILT_WITH[..]].concat());
        pip(&["download", "--no-deps", "--no-build-isolation", "--no-binary", "jsonschema", PACKAGE]);
        unpack(folder);
        std::fs::remove_dir_all(&python).expect("what was used to fetch it can be removed");
    })
    .join("suite/json")
}

fn unpack(folder: &Path) {
    let archive = std::fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .expect("pip has fetched an archive");
    std::fs::create_dir(folder.join("suite")).expect("a folder for the suite");
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=1", "--file"]).arg(archive).arg("--directory");
    installed::run(tar.arg(folder.join("suite")), "this test needs tar");
}
