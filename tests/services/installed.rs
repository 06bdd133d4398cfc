//! What services need and is not in this repository: fetched once for a target folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with the installation `name`. If there is none, or it was made of something else than
/// `wanted`, `install` fills it; one test process installs, the others wait for it.
pub fn once(name: &str, wanted: &str, install: impl FnOnce(&Path)) -> PathBuf {
    // Under it is `tmp`, which Cargo makes for tests.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is under the target folder");
    let services = target.join("services");
    std::fs::create_dir_all(&services).expect("a folder for services");
    let lock = File::create(services.join(format!("{name}.lock"))).expect("a file to lock");
    lock.lock().expect("files can be locked");

    let folder = services.join(name);
    let made_of = folder.join("made-of");
    if std::fs::read_to_string(&made_of).is_ok_and(|made_of| made_of == wanted) {
        return folder;
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("what was installed can be removed");
    }
    std::fs::create_dir(&folder).expect("a folder for what is installed");
    install(&folder);
    std::fs::write(&made_of, wanted).expect("it can be noted");
    folder
}

/// Runs a command to its end. `needs` says what it needs and how to get that.
pub fn run(command: &mut Command, needs: &str) {
    let output = command.output().expect(needs);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}\n{needs}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
}
