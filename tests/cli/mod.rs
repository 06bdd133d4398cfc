//! What the command line prints, to whom, and what it must not print.

use std::fs::{File, OpenOptions};

use crate::support::{Folder, millstream};

/// Standard error or output that takes nothing.
fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("Linux has it")
}

fn generate(folder: &Folder, name: &str, count: u32, rate: u32) {
    let text = format!(
        "name = \"{name}\"\n[source]\ntype = \"generate\"\ncount = {count}\nrate = {rate}\n\
         [[sink]]\ntype = \"file\"\npath = \"{name}.out\"\n"
    );
    folder.write(&format!("{name}.toml"), &text);
}

#[test]
fn p2_what_nobody_can_read_on_standard_error_stops_no_pipeline() {
    let folder = Folder::new();
    generate(&folder, "short", 10, 100_000);
    generate(&folder, "long", 1000, 1000);
    let path = folder.path("").display().to_string();
    let status = millstream(&["run", &path, "--admin", "127.0.0.1:0"])
        .stderr(full())
        .status()
        .expect("the binary starts");
    assert_eq!(status.code(), Some(0));
    assert_eq!((folder.lines("short.out").len(), folder.lines("long.out").len()), (10, 1000));
}

#[test]
fn a_reader_of_standard_output_that_goes_away_is_no_error() {
    let folder = Folder::new();
    generate(&folder, "p", 1, 1);
    let file = folder.path("p.toml").display().to_string();
    for arguments in [&["components"][..], &["components", "file"], &["check", &file]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = millstream(arguments).stdout(writer).output().expect("the binary starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*told), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn standard_output_that_takes_nothing_is_an_error_in_words() {
    let output = millstream(&["components"]).stdout(full()).output().expect("the binary starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.starts_with("error: cannot write to standard output: "), "{told}");
}
