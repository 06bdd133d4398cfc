//! What is wrong with a pipeline file (P9).

/// One mistake, at a place within the section that was checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// JSON pointer of the value within the section (`/tls/cert`), empty for the section.
    pub at: String,
    /// What is wrong, with the value. A value that came from a variable is hidden by the printer.
    pub message: String,
    /// What is allowed, or the line to add.
    pub help: Option<String>,
}

impl Problem {
    pub fn new(at: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { at: at.into(), message: message.into(), help: None }
    }

    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }
}
