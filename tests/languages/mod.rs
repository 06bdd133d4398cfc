//! Plugins in other languages: finished components, each with its fixtures as those in Rust. The WASI
//! that a language brings along is denied (P7).

use std::path::Path;
use std::process::Command;

use crate::support::{Folder, Running, millstream, repository};

const JAVASCRIPT: &str = "plugins/order-events-javascript";
const PYTHON: &str = "plugins/order-events-python";

/// Runs the build script of a plugin.
fn build(plugin: &str, arguments: &[&Path]) {
    let built = Command::new(repository().join(plugin).join("build.sh")).args(arguments).output();
    let built = built.expect("the script starts");
    assert!(built.status.success(), "{plugin}/build.sh: {}", String::from_utf8_lossy(&built.stderr));
}

/// Runs the fixtures of a plugin's folder; what it compiles is kept for this test alone.
fn plugin_test(folder: &Folder, plugin: &Path) -> (bool, String) {
    let mut test = millstream(&["plugin", "test", "--no-build"]);
    let output = test.arg(plugin).env("XDG_CACHE_HOME", folder.path("cache")).output();
    let output = output.expect("the binary starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Builds a plugin, runs its fixtures, and tries what its helper has to say of mistakes.
fn check(folder: &Folder, plugin: &str) {
    build(plugin, &[]);
    let (good, said) = plugin_test(folder, &repository().join(plugin));
    assert!(good && said.contains("ok (seed"), "{said}");

    let wasm = repository().join(plugin.replace("plugins", "target/plugins") + ".wasm");
    let copy = folder.path("copy");
    std::fs::create_dir_all(copy.join("fixtures")).expect("a folder for the test");
    for file in ["input.ndjson", "expected.ndjson", "expected-dead-letters.ndjson"] {
        let file = Path::new("fixtures").join(file);
        std::fs::copy(repository().join(plugin).join(&file), copy.join(&file)).expect("a file of the plugin");
    }
    let example = |config: &str| {
        let text = format!("[[plugin]]\nwasm = {wasm:?}\nconfig = {config}\n");
        std::fs::write(copy.join("example.toml"), text).expect("a file for the test");
    };
    example("{ minimum = \"a lot\" }");
    let (good, said) = plugin_test(folder, &copy);
    assert!(!good && said.contains("/config/minimum: must be a number"), "{said}");
    // The fixtures tell what is different.
    example("{ minimum = 1, large = 1000 }");
    let (good, said) = plugin_test(folder, &copy);
    assert!(!good && said.contains("expected.ndjson (-) is not what comes out (+)"), "{said}");
}

#[test]
fn a_plugin_in_python_keeps_its_fixtures() {
    check(&Folder::new(), PYTHON);
}

#[test]
fn p7_a_plugin_in_javascript_keeps_its_fixtures_and_what_it_asks_of_the_system_is_denied() {
    let folder = Folder::new();
    check(&folder, JAVASCRIPT);

    let helper = repository().join(JAVASCRIPT).join("millstream.js");
    std::fs::copy(helper, folder.path("millstream.js")).expect("a file of the plugin");
    let plugin = folder.write(
        "print.js",
        r#"
import { plugin, lookup, log } from "./millstream.js";
export const processor = plugin({
  name: "print", version: "0.1.0", summary: "Prints.",
  map(message) {
    const text = message.text();
    if (text === "print") console.log(text);
    if (text === "throw") throw new Error("thrown");
    log.warn(`sees ${text}`);
    const [row, none] = lookup("names", [text, "no such key"]);
    return `${row?.name} ${none}`;
  },
});
"#,
    );
    build(JAVASCRIPT, &[&plugin, &folder.path("print.wasm")]);
    folder.write("names.csv", "id,name\none,Eins\nzwölf,Zwölf\n");
    folder.write("in.txt", "one\nprint\nthrow\nzwölf\n");
    let file = folder.write(
        "pipeline.toml",
        r#"
name = "javascript"
[source]
type = "file"
path = "in.txt"
codec = "lines"
[[plugin]]
wasm = "print.wasm"
grants.lookup.names = { file = "names.csv", key = "id" }
[[sink]]
type = "file"
path = "out.txt"
codec = "lines"
[dead_letters]
type = "file"
path = "dead.ndjson"
codec = "record"
"#,
    );
    let mut running = Running::start(&folder, &file);
    assert!(running.end().success(), "{}", running.log());
    assert_eq!(folder.lines("out.txt"), ["Eins undefined", "Zwölf undefined"], "{}", running.log());
    assert!(running.log().contains("sees zwölf"), "{}", running.log());
    let dead = folder.lines("dead.ndjson");
    let [print, throw] = &dead[..] else { panic!("{dead:?}") };
    assert!(print.contains("\"payload\":\"print\""), "{print}");
    assert!(print.contains("called wasi:cli/") && print.contains("granted to no plugin"), "{print}");
    assert!(throw.contains("\"millstream-dlq-code\":\"exception\"") && throw.contains("thrown"), "{throw}");
}
