//! `millstream schema`: whether a new version of a schema goes together with an old one. Reads two files and
//! asks nobody.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use millstream_formats::compatibility::{self, Finding, Mode, Weight};
use serde_json::json;

use super::output::{Output, tell, visible};

/// Compares schemas.
#[derive(Args)]
pub struct Schema {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Check(Check),
}

impl Schema {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Check(check) => check.run(),
        }
    }
}

/// Checks whether data can be read across two versions of a schema: a line for each place where it cannot,
/// with what to do about it. Fails if there is one.
#[derive(Args)]
struct Check {
    /// The version that is in use.
    old: PathBuf,
    /// The version that is to replace it.
    new: PathBuf,
    /// Who must read whom.
    #[arg(long, value_enum, default_value_t = Reading::Backward)]
    mode: Reading,
    /// The language of the schemas; by default by the ending of the new one: .avsc, .proto, .desc, .pb, .json.
    #[arg(long = "type", value_enum)]
    language: Option<Language>,
    /// Compare this message of Protocol Buffers, with all that it holds; by default all messages.
    #[arg(long)]
    message: Option<String>,
    /// Where the old .proto file imports from; by default its own folder. May be repeated.
    #[arg(long, value_name = "FOLDER")]
    old_include: Vec<PathBuf>,
    /// Where the new .proto file imports from; by default its own folder. May be repeated.
    #[arg(long, value_name = "FOLDER")]
    new_include: Vec<PathBuf>,
    /// Do not fail for what cannot be told (JSON Schema).
    #[arg(long)]
    allow_unknown: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Reading {
    /// The new version reads what the old one wrote.
    Backward,
    /// The old version reads what the new one writes.
    Forward,
    /// Both.
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Avro,
    Protobuf,
    Json,
}

impl Check {
    fn run(self) -> anyhow::Result<ExitCode> {
        let findings = self.findings()?;
        let mut output = Output::new();
        for finding in &findings {
            let line = match self.json {
                true => line_of(finding),
                false => visible(&finding.to_string()).replace('\n', " "),
            };
            if !output.write(format!("{line}\n").as_bytes())? {
                break;
            }
        }
        output.flush()?;
        let count = |weight| findings.iter().filter(|finding| finding.weight == weight).count();
        let (breaks, unknown) = (count(Weight::Breaks), count(Weight::Unknown));
        let fails = breaks > 0 || unknown > 0 && !self.allow_unknown;
        if fails {
            tell(format!("not compatible: {breaks} that break, {unknown} that cannot be told"));
        }
        Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn findings(&self) -> anyhow::Result<Vec<Finding>> {
        let language = match self.language {
            Some(language) => language,
            None => guessed(&self.new)?,
        };
        if language != Language::Protobuf
            && (self.message.is_some() || !self.old_include.is_empty() || !self.new_include.is_empty())
        {
            bail!("--message, --old-include and --new-include are for Protocol Buffers; leave them out");
        }
        let mode = match self.mode {
            Reading::Backward => Mode::Backward,
            Reading::Forward => Mode::Forward,
            Reading::Full => Mode::Full,
        };
        let text = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let findings = match language {
            Language::Avro => compatibility::avro::check(&text(&self.old)?, &text(&self.new)?, mode),
            Language::Json => compatibility::json::check(&text(&self.old)?, &text(&self.new)?, mode),
            Language::Protobuf => {
                let old = descriptors(&self.old, &self.old_include)?;
                let new = descriptors(&self.new, &self.new_include)?;
                compatibility::protobuf::check(&old, &new, self.message.as_deref(), mode)
            }
        };
        findings.with_context(|| format!("cannot compare {} with {}", self.old.display(), self.new.display()))
    }
}

fn guessed(path: &Path) -> anyhow::Result<Language> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("avsc") => Ok(Language::Avro),
        Some("proto" | "desc" | "pb") => Ok(Language::Protobuf),
        Some("json") => Ok(Language::Json),
        _ => bail!(
            "the ending of {} does not tell its language; add --type avro, protobuf or json",
            path.display()
        ),
    }
}

/// Of a `.proto` file, or of a descriptor set.
fn descriptors(path: &Path, include: &[PathBuf]) -> anyhow::Result<compatibility::protobuf::DescriptorPool> {
    let wrong = || format!("cannot read the messages of {}", path.display());
    if path.extension().is_none_or(|ending| ending != "proto") {
        let set = std::fs::read(path).with_context(wrong)?;
        return compatibility::protobuf::of_set(&set).with_context(wrong);
    }
    // What is not there is told as that, not as something that is in no folder of imports.
    std::fs::metadata(path).with_context(wrong)?;
    let own = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let folders = if include.is_empty() { vec![own] } else { include.to_vec() };
    compatibility::protobuf::of_file(path, &folders).with_context(wrong)
}

fn line_of(finding: &Finding) -> String {
    let weight = match finding.weight {
        Weight::Breaks => "breaks",
        Weight::Unknown => "unknown",
        Weight::Warning => "warning",
    };
    json!({
        "weight": weight,
        "writer": finding.way.writer(),
        "reader": finding.way.reader(),
        "path": finding.path,
        "what": finding.what,
        "remedy": finding.remedy,
    })
    .to_string()
}
