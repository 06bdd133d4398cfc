//! `millstream components`: what there is, and the reference of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::output::Output;
use crate::config::allowed;
use crate::config::reference::{self, Kind};
use crate::plugin::{self, BUILT_INS, PluginCode};

/// List sources, sinks, codecs and built-in plugins, or print the reference of one.
#[derive(Args)]
pub struct Components {
    /// Print the reference of everything that has this name.
    name: Option<String>,
    /// Write the whole reference as Markdown into a folder.
    #[arg(long, value_name = "FOLDER", conflicts_with = "name", hide = true)]
    write: Option<PathBuf>,
}

impl Components {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let text = match (self.write, self.name) {
            (Some(folder), _) => {
                write(&folder)?;
                return Ok(ExitCode::SUCCESS);
            }
            (None, Some(name)) => {
                let entries = reference::entries();
                let pages: Vec<&str> = entries
                    .iter()
                    .filter(|entry| entry.name == name)
                    .map(|entry| entry.page.as_str())
                    .collect();
                if pages.is_empty() {
                    // A source and a sink may have the same name.
                    let known: BTreeSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
                    anyhow::bail!("nothing is called `{name}`\n{}", allowed(Some(&name), known));
                }
                pages.join("\n")
            }
            (None, None) => list(),
        };
        let mut output = Output::new();
        output.write(text.as_bytes())?;
        output.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}

fn list() -> String {
    let entries = reference::entries();
    let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for kind in Kind::ALL {
        let of_kind: Vec<String> = entries
            .iter()
            .filter(|entry| entry.kind == kind)
            .map(|entry| format!("  {:width$}  {}\n", entry.name, entry.summary))
            .collect();
        if !of_kind.is_empty() {
            text.push_str(&format!("{}s:\n{}\n", kind.singular(), of_kind.concat()));
        }
    }
    text + "`millstream components NAME` prints the reference of one\n"
}

/// Makes the folder hold the pages of everything there is and no others. Those of plugins are made
/// of what the plugins say.
fn write(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let engine = super::plugin::engine()?;
    let mut entries = reference::entries();
    for built_in in BUILT_INS {
        let inspection = plugin::inspect(&engine, &PluginCode::BuiltIn(built_in.name.to_owned()))?;
        let page = reference::plugin_page(built_in, &inspection)?;
        entries
            .iter_mut()
            .filter(|entry| entry.kind == Kind::Plugin && entry.name == built_in.name)
            .for_each(|entry| entry.set_page(page.clone()));
    }
    let pages = reference::pages(&entries);
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        let is_stale = path.extension().is_some_and(|ending| ending == "md")
            && !pages.iter().any(|(name, _)| path.file_name().is_some_and(|file| file == name.as_str()));
        if is_stale {
            std::fs::remove_file(&path).with_context(|| format!("cannot delete {}", path.display()))?;
        }
    }
    for (name, text) in pages {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
