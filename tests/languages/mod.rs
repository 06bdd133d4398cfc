//! P7: a plugin in another language is a finished component. It runs, and the WASI that its language
//! brings along is denied.

use std::process::Command;

use crate::support::{Folder, Running, npm_ci, repository, run};

#[test]
fn p7_a_plugin_in_javascript_runs_and_what_it_asks_of_the_system_is_denied() {
    let folder = Folder::new();
    npm_ci(&folder, "tests/languages/javascript", &["build.js", "plugin.js"]);
    let built = Command::new("node")
        .arg("build.js")
        .arg(repository().join("plugin-sdk/wit"))
        .arg("plugin.wasm")
        .current_dir(folder.path(""))
        .output()
        .expect("this test needs Node: apt-get install nodejs npm");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    let pipeline = |config: &str| {
        format!(
            r#"
name = "javascript"
[source]
type = "file"
path = "in.txt"
codec = "lines"
[[plugin]]
wasm = "plugin.wasm"
config = {config}
[[sink]]
type = "file"
path = "out.txt"
codec = "lines"
[dead_letters]
type = "file"
path = "dead.ndjson"
codec = "record"
"#
        )
    };
    folder.write("in.txt", "one\nprint\nzwölf\n");
    let file = folder.write("pipeline.toml", &pipeline("{ suffix = 1 }"));
    let (status, _, errors) = run(&["check", file.to_str().expect("a path in UTF-8")]);
    assert!(!status.success() && errors.contains("error: is a string"), "{errors}");

    let file = folder.write("pipeline.toml", &pipeline("{ suffix = \"!\" }"));
    let mut running = Running::start(&folder, &file);
    assert!(running.end().success(), "{}", running.log());
    assert_eq!(folder.lines("out.txt"), ["ONE!", "ZWÖLF!"], "{}", running.log());
    let dead = folder.lines("dead.ndjson");
    let [letter] = &dead[..] else { panic!("{dead:?}") };
    assert!(letter.contains("\"payload\":\"print\""), "{letter}");
    assert!(letter.contains("called wasi:cli/") && letter.contains("granted to no plugin"), "{letter}");
}
