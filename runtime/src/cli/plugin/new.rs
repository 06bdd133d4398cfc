//! `millstream plugin new`: a crate to start from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

/// Make a plugin's crate: code, a test, fixtures, and a pipeline that uses it.
#[derive(Args)]
pub struct New {
    /// Name of the plugin and of its crate: small letters, digits and `-`.
    name: String,
    /// What it does with a message.
    #[arg(long, default_value = "process")]
    kind: PluginKind,
    /// Take the SDK from this folder.
    #[arg(long, value_name = "FOLDER", conflicts_with = "sdk_version")]
    sdk_path: Option<PathBuf>,
    /// Take this version of the SDK from the registry; by default that of this millstream.
    #[arg(long, value_name = "VERSION")]
    sdk_version: Option<String>,
    /// Folder to make it in.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    within: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PluginKind {
    /// Keeps a message or drops it.
    Filter,
    /// Makes another payload of it.
    Map,
    /// Makes any number of messages of it.
    Process,
}

/// What a kind consists of.
struct Template {
    code: &'static str,
    config: &'static str,
    /// What the test in the pipeline expects of them.
    refused: &'static str,
    input: &'static str,
    expected: &'static str,
    dead_letters: &'static str,
}

const MANIFEST: &str = include_str!("template/Cargo.toml.in");
const README: &str = include_str!("template/README.md.in");
const PIPELINE: &str = include_str!("template/pipeline.toml.in");

impl PluginKind {
    fn template(self) -> Template {
        macro_rules! template {
            ($kind:literal, $config:literal, $refused:literal) => {
                Template {
                    code: include_str!(concat!("template/", $kind, "/lib.rs.in")),
                    config: $config,
                    refused: $refused,
                    input: include_str!(concat!("template/", $kind, "/input.ndjson")),
                    expected: include_str!(concat!("template/", $kind, "/expected.ndjson")),
                    dead_letters: include_str!(concat!("template/", $kind, "/expected-dead-letters.ndjson")),
                }
            };
        }
        match self {
            PluginKind::Filter => {
                template!("filter", "{ minimum = 100.0 }", "{ message = 3, code = \"payload-not-json\" }")
            }
            PluginKind::Map => {
                template!("map", "{ tax = 0.19 }", "{ message = 3, code = \"payload-not-json\" }")
            }
            PluginKind::Process => template!(
                "process",
                "{ route = \"items\" }",
                "{ message = 3, code = \"empty-item\" }, { message = 4, code = \"payload-not-json\" }"
            ),
        }
    }
}

impl New {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        check_name(&self.name)?;
        let folder = self.within.join(&self.name);
        if folder.exists() {
            bail!("{} is there already; take another name", folder.display());
        }
        // It also makes the crate a member of the workspace that it comes to lie in, if there is one.
        let made = Command::new("cargo")
            .args(["new", "--quiet", "--lib", "--name", &self.name])
            .arg(&folder)
            .status()
            .context("cargo cannot be run; get it with Rust from https://rustup.rs")?;
        if !made.success() {
            bail!("cargo could not make {}", folder.display());
        }
        self.fill(&folder)?;
        let shown = folder.display();
        println!(
            "made {shown}; next:\n\n    cd {shown}\n    cargo test\n    millstream plugin test\n    millstream test pipeline.toml\n    millstream run pipeline.toml"
        );
        Ok(ExitCode::SUCCESS)
    }

    fn fill(&self, folder: &Path) -> anyhow::Result<()> {
        let template = self.kind.template();
        let sdk = match (&self.sdk_path, &self.sdk_version) {
            (Some(path), _) => {
                let path = path.canonicalize().with_context(|| format!("there is no {}", path.display()))?;
                if !path.join("wit/plugin.wit").is_file() {
                    bail!("{} is not the SDK: it has no wit/plugin.wit", path.display());
                }
                format!("{{ path = {:?} }}", path.display().to_string())
            }
            (None, version) => format!("{:?}", version.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"))),
        };
        let filled = |text: &str| {
            text.replace("@NAME@", &self.name)
                .replace("@TYPE@", &type_name(&self.name))
                .replace("@SDK@", &sdk)
                .replace("@CONFIG@", template.config)
                .replace("@DEAD_LETTERS@", template.refused)
        };
        for (name, text) in [
            ("Cargo.toml", MANIFEST),
            ("README.md", README),
            ("pipeline.toml", PIPELINE),
            ("src/lib.rs", template.code),
            ("fixtures/input.ndjson", template.input),
            ("fixtures/expected.ndjson", template.expected),
            ("fixtures/expected-dead-letters.ndjson", template.dead_letters),
            (".gitignore", "/target\n/*.wasm\n.millstream/\n"),
        ] {
            let file = folder.join(name);
            let cannot_write = || format!("cannot write {}", file.display());
            file.parent().map_or(Ok(()), fs::create_dir_all).with_context(cannot_write)?;
            fs::write(&file, filled(text)).with_context(cannot_write)?;
        }
        Ok(())
    }
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name.chars().all(allowed)
        || name.ends_with('-')
    {
        bail!("{name:?} is no name of a plugin: small letters, digits and `-`, a letter first");
    }
    Ok(())
}

/// Types that the templates have already: their own, the SDK's, the language's.
const TAKEN: [&str; 22] = [
    "Batch",
    "Config",
    "ConfigError",
    "Deserialize",
    "Err",
    "Failure",
    "Filter",
    "Item",
    "JsonSchema",
    "Map",
    "Message",
    "Ok",
    "Option",
    "Order",
    "Output",
    "Plugin",
    "Process",
    "Reads",
    "Result",
    "Serialize",
    "Taxed",
    "Verdict",
];

/// `big-orders` as a type: `BigOrders`.
fn type_name(name: &str) -> String {
    let words = name.split('-').filter(|word| !word.is_empty());
    let name: String = words.map(|word| word[..1].to_ascii_uppercase() + &word[1..]).collect();
    if TAKEN.contains(&name.as_str()) { name + "Plugin" } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_types() {
        assert_eq!(type_name("big-orders-2"), "BigOrders2");
        assert_eq!(type_name("order"), "OrderPlugin");
        for bad in ["", "Big", "2big", "a_b", "a-", "ä"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name("big-orders-2").is_ok());
    }
}
