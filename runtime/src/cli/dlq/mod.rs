//! `millstream dlq`: the dead letters of a pipeline.

mod access;
mod export;
#[cfg(feature = "aws")]
mod move_task;
mod print;
mod replay;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{ArgGroup, Args, Subcommand};

use self::access::Access;
use super::output::{Output, confirm, tell, visible};
use crate::config::secrets::Redactor;
use crate::config::{DeadLetterStore, Pipeline};
use crate::dead_letters::filter::Filter;
use crate::dead_letters::masks::Masks;
use crate::dead_letters::{Letters, Stage, elsewhere};

/// Lists, shows, replays, exports or deletes the dead letters of a pipeline.
///
/// Works while the pipeline runs, too: then the running process does it.
#[derive(Args)]
pub struct Dlq {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    List(List),
    Show(Show),
    Replay(replay::Replay),
    Export(export::Export),
    Purge(Purge),
    #[cfg(feature = "aws")]
    Move(move_task::Move),
}

impl Dlq {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            match self.verb {
                Verb::List(list) => list.run().await,
                Verb::Show(show) => show.run().await,
                Verb::Replay(replay) => replay.run().await,
                Verb::Export(export) => export.run().await,
                Verb::Purge(purge) => purge.run().await,
                #[cfg(feature = "aws")]
                Verb::Move(verb) => verb.run().await,
            }
        })
    }
}

/// Whose dead letters.
#[derive(Args)]
struct Target {
    /// The pipeline file.
    file: PathBuf,
    /// Where the pipeline remembers, if `run` was told another folder too.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

impl Target {
    /// Reads the pipeline; `None` if its file is wrong, which is then told.
    fn load(&self) -> anyhow::Result<Option<Pipeline>> {
        super::load_one(&self.file, self.data_dir.as_deref())
    }
}

/// Which dead letters; all of these must be true of one.
#[derive(Args, Clone)]
struct Selection {
    /// Failed there: source, route, plugin, sink, source:STEP, plugin:STEP or sink:NAME.
    #[arg(long, value_parser = parse_stage)]
    stage: Option<String>,
    /// Failed in this plugin: its step, its name, or the SHA-256 of its file.
    #[arg(long, value_name = "PLUGIN")]
    plugin: Option<String>,
    /// Has this code, or this text in its reason; case does not matter.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Failed then or later: 2026-01-31T12:00:00Z, or 2h for two hours ago.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<i64>,
    /// Failed before then.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<i64>,
}

impl Selection {
    fn filter(self, ids: Vec<String>) -> Filter {
        let Selection { stage, plugin, reason, since, until } = self;
        Filter { ids, stage, plugin, reason, since_ms: since, until_ms: until, source: None }
    }
}

/// The error for ids that no dead letter has.
fn unknown(ids: &[impl AsRef<str>]) -> anyhow::Error {
    let ids: Vec<String> = ids.iter().map(|id| visible(id.as_ref())).collect();
    let what = if ids.len() == 1 { "is no dead letter" } else { "are no dead letters" };
    anyhow::anyhow!("there {what} {}; `millstream dlq list` shows those there are", ids.join(", "))
}

fn parse_stage(text: &str) -> Result<String, String> {
    match (text, text.split_once(':')) {
        ("source" | "route" | "plugin" | "sink", _) | (_, Some(("source" | "plugin" | "sink", _))) => {
            Ok(text.to_owned())
        }
        _ => Err("a stage is source, route, plugin, sink, source:STEP, plugin:STEP or sink:NAME".to_owned()),
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z.
fn parse_time(text: &str) -> Result<i64, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let ago = humantime::parse_duration(text).map_err(|_| {
        "write a time like 2026-01-31T12:00:00Z, or how long ago it was, like 2h or 30m".to_owned()
    })?;
    let ago_ms = i64::try_from(ago.as_millis()).map_err(|_| "that is too long ago".to_owned())?;
    Ok(jiff::Timestamp::now().as_millisecond().saturating_sub(ago_ms))
}

/// Lists dead letters, oldest first.
#[derive(Args)]
struct List {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    selection: Selection,
    /// At most so many.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
    /// One JSON object a line, with everything.
    #[arg(long)]
    json: bool,
    /// Show what the plugin mask hides, and values that came from variables.
    #[arg(long)]
    reveal: bool,
}

impl List {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let Some(pipeline) = self.target.load()? else { return Ok(ExitCode::FAILURE) };
        let access = Access::open(&pipeline).await?;
        let masks = (!self.reveal).then(|| Masks::of(&pipeline)).transpose()?;
        let filter = self.selection.filter(Vec::new());
        let mut left = self.limit.unwrap_or(usize::MAX);
        let mut output = Output::new();
        let mut table = print::Table::default();
        access
            .each_page(&filter, |mut letters| {
                letters.truncate(left);
                left -= letters.len();
                letters.iter_mut().for_each(|letter| masks.iter().for_each(|masks| masks.hide(letter)));
                let text = if self.json { print::json_lines(&letters)? } else { table.rows(&letters) };
                Ok(output.write(&text)? && left > 0)
            })
            .await?;
        output.flush()?;
        if !self.json {
            tell_the_end(&pipeline, table.count());
            tell_what_looking_does(&pipeline);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn tell_the_end(pipeline: &Pipeline, count: usize) {
    let file = pipeline.file.display();
    match (count, &pipeline.dead_letters.to) {
        (0, DeadLetterStore::Sink(sink)) if elsewhere(pipeline).is_none() => {
            tell(format_args!("no dead letters here: this pipeline writes them to the sink {}", sink.name));
        }
        (0, _) => tell("no dead letters"),
        (count, _) => tell(format_args!("{count} shown; everything of one: millstream dlq show {file} ID")),
    }
}

fn tell_what_looking_does(pipeline: &Pipeline) {
    if let Some(note) = elsewhere(pipeline).and_then(|elsewhere| elsewhere.note()) {
        tell(Redactor::global().redact(&note));
    }
}

/// Shows everything of a dead letter.
#[derive(Args)]
struct Show {
    #[command(flatten)]
    target: Target,
    /// As `list` prints it.
    id: String,
    /// As a JSON object on a line.
    #[arg(long)]
    json: bool,
    /// Show what the plugin mask hides, and values that came from variables.
    #[arg(long)]
    reveal: bool,
}

impl Show {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let Some(pipeline) = self.target.load()? else { return Ok(ExitCode::FAILURE) };
        let access = Access::open(&pipeline).await?;
        let mut found = Vec::new();
        access
            .each_page(&Filter::of_id(&self.id), |letters| {
                found.extend(letters);
                Ok(true)
            })
            .await?;
        let Some(mut letter) = found.pop() else { return Err(unknown(&[&self.id])) };
        if !self.reveal {
            Masks::of(&pipeline)?.hide(&mut letter);
        }
        let stage = letter.stage.clone();
        let text = if self.json { print::json_lines(&[letter])? } else { print::details(&letter) };
        let mut output = Output::new();
        output.write(&text)?;
        output.flush()?;
        if !self.json {
            tell_what_looking_does(&pipeline);
        }
        if let (false, Stage::Plugin(step)) = (self.json, stage) {
            let letters = Letters::new(&self.target.file, self.target.data_dir.as_deref());
            let commands = letters.offline(&self.id, &step).join("\n  ");
            tell(format_args!("to give it to that plugin again, offline:\n  {commands}"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Deletes dead letters for good.
#[derive(Args)]
// What clap writes has the ids, as part of the group, before the file.
#[command(
    override_usage = "millstream dlq purge [OPTIONS] <FILE> <ID...|--all|--expired|--stage|--plugin|--reason|--since|--until>"
)]
#[command(group = ArgGroup::new("which").required(true).multiple(true)
    .args(["ids", "stage", "plugin", "reason", "since", "until", "all", "expired"]))]
struct Purge {
    #[command(flatten)]
    target: Target,
    /// Those with these ids.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Every one.
    #[arg(long, conflicts_with_all = ["ids", "stage", "plugin", "reason", "since", "until"])]
    all: bool,
    /// Those that are older than the `retention` of the pipeline.
    #[arg(long, conflicts_with_all = ["ids", "stage", "plugin", "reason", "since", "until", "all"])]
    expired: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Purge {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let Some(pipeline) = self.target.load()? else { return Ok(ExitCode::FAILURE) };
        let access = Access::open(&pipeline).await?;
        access.know(&self.ids).await?;
        let filter = self.selection.filter(self.ids);
        let purged = if self.expired {
            access.purge_expired().await?
        } else {
            let count = access.count(&filter).await?;
            if count > 0
                && !confirm(&format!("delete {count} dead letters of {} for good?", pipeline.name), self.yes)?
            {
                bail!("nothing was deleted");
            }
            access.purge(&filter).await?
        };
        tell(format_args!("{purged} dead letters were deleted"));
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_moments_or_how_long_ago() {
        assert_eq!(parse_time("1970-01-01T00:00:01+00:00"), Ok(1000));
        let now = jiff::Timestamp::now().as_millisecond();
        let two_hours = parse_time("2h").unwrap();
        assert!((now - 7_200_000..now - 7_200_000 + 60_000).contains(&two_hours), "{two_hours}");
        assert!(parse_time("yesterday").unwrap_err().contains("2026-01-31T12:00:00Z"));
    }

    #[test]
    fn the_usage_names_what_must_be_given_in_its_order() {
        use clap::CommandFactory;

        for verb in ["list", "show", "replay", "export", "purge"] {
            let mut command = crate::cli::Cli::command();
            let dlq = command.find_subcommand_mut("dlq").unwrap();
            let usage = dlq.find_subcommand_mut(verb).unwrap().render_usage().to_string();
            let file = usage.find("<FILE>").unwrap_or_else(|| panic!("{usage}"));
            let id = usage.find("ID").unwrap_or(usage.len());
            assert!(file < id, "{usage}");
            assert_eq!(verb == "list", id == usage.len(), "{usage}");
            let one_of =
                usage.contains("--all|") && usage.contains("|--stage|--plugin|--reason|--since|--until");
            assert_eq!(matches!(verb, "replay" | "purge"), one_of, "{usage}");
        }
    }

    #[test]
    fn a_stage_that_is_none_is_refused() {
        for stage in ["source", "source:schema", "plugin", "plugin:jq-2", "sink:a:b", "route"] {
            assert_eq!(parse_stage(stage).as_deref(), Ok(stage));
        }
        assert!(parse_stage("jq").unwrap_err().contains("plugin:STEP"));
    }
}
