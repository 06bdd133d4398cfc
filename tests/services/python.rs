//! Python with the packages that tests need.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::installed;

const NEEDS: &str = "this test needs Python with venv: apt-get install python3 python3-venv";

/// The Python of a virtual environment with what a file of requirements names.
pub fn venv(name: &str, requirements: &Path) -> PathBuf {
    let wanted = std::fs::read_to_string(requirements).expect("the requirements are there");
    let folder = installed::once(name, &wanted, |folder| {
        installed::run(Command::new("python3").args(["-m", "venv"]).arg(folder), NEEDS);
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
        installed::run(pip.arg(requirements), NEEDS);
    });
    folder.join("bin/python")
}
