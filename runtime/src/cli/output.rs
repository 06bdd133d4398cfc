//! Standard output and standard error, which may be closed by their readers (`| head`): that is no
//! error.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use anyhow::Context;

use crate::observe::terminal::Stderr;

pub struct Output(BufWriter<Stdout>);

impl Output {
    pub fn new() -> Output {
        Output(BufWriter::new(io::stdout()))
    }

    /// Writes; false if nobody reads any more.
    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<bool> {
        still_read(self.0.write_all(bytes))
    }

    pub fn flush(mut self) -> anyhow::Result<()> {
        still_read(self.0.flush())?;
        // What could not be written is not tried again when this is dropped.
        drop(self.0.into_parts());
        Ok(())
    }
}

fn still_read(result: io::Result<()>) -> anyhow::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

/// Tells people a line on standard error.
pub fn tell(line: impl Display) {
    // What they do not want to read need not be told; `eprintln!` would panic.
    let _ = Stderr.write_all(format!("{line}\n").as_bytes());
}

/// The text with control characters made visible, so that what came from outside cannot play with
/// the terminal. Line breaks and tabs stay.
pub fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => visible.push(c),
            c if c.is_control() => visible.extend(c.escape_default()),
            c => visible.push(c),
        }
    }
    visible
}

/// Asks for a yes on the terminal. Without one `--yes` must say it.
pub fn confirm(question: &str, yes: bool) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        anyhow::bail!("{question} nobody is there to answer; add --yes");
    }
    write!(io::stderr(), "{question} [y/N] ").context("cannot ask on standard error")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_made_visible() {
        assert_eq!(visible("a\x1b[31mb\r\n\tä\u{9b}"), "a\\u{1b}[31mb\\r\n\tä\\u{9b}");
    }
}
