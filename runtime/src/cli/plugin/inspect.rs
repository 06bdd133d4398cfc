//! `millstream plugin inspect`: what a plugin's file is.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::section;
use crate::cli::output::visible;
use crate::config::units::ByteSize;
use crate::plugin::{self, Inspection, PluginCode};

/// Tell what a plugin is, what it reads and wants, and whether this host loads it.
#[derive(Args)]
pub struct Inspect {
    /// The plugin's .wasm.
    file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match plugin::inspect(&*section::engine()?, &PluginCode::File(self.file)) {
            Ok(inspection) => {
                print!("{}", if self.json { json(&inspection) } else { text(&inspection) });
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                for problem in &error.problems {
                    eprintln!("this host does not load it: {}", visible(&problem.message));
                    if let Some(help) = &problem.help {
                        eprintln!("  {}", visible(help));
                    }
                }
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

fn text(inspection: &Inspection) -> String {
    let Inspection { name, version, summary, contract, reads, config_schema, imports, bytes, sha256 } =
        inspection;
    let mut text = format!("{name} {version}: {summary}\n");
    for (label, value) in [
        ("loads", "yes".to_owned()),
        ("contract", contract.clone()),
        ("reads", if reads.is_empty() { "nothing".to_owned() } else { reads.join(", ") }),
        ("size", ByteSize(*bytes).to_string()),
        ("sha256", sha256.clone()),
    ] {
        text.push_str(&format!("  {label:9} {value}\n"));
    }
    text.push_str("  imports\n");
    if imports.is_empty() {
        text.push_str("    nothing\n");
    }
    for (import, meaning) in imports {
        text.push_str(&format!("    {import}: {meaning}\n"));
    }
    let schema = serde_json::from_str::<Value>(config_schema);
    let schema = schema.map_or_else(|error| format!("is not JSON: {error}"), |schema| format!("{schema:#}"));
    text.push_str(&format!("  config\n    {}\n", schema.replace('\n', "\n    ")));
    visible(&text)
}

fn json(inspection: &Inspection) -> String {
    let Inspection { name, version, summary, contract, reads, config_schema, imports, bytes, sha256 } =
        inspection;
    let schema: Value = serde_json::from_str(config_schema).unwrap_or(Value::Null);
    let imports: Vec<&String> = imports.iter().map(|(import, _)| import).collect();
    let object = serde_json::json!({
        "name": name, "version": version, "summary": summary, "contract": contract, "reads": reads,
        "config_schema": schema, "imports": imports, "bytes": bytes, "sha256": sha256,
    });
    format!("{object}\n")
}
