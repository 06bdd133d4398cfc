//! Problems as they are printed: place, line, what is wrong, what is allowed.

use std::fmt;
use std::path::PathBuf;

/// Everything that is wrong with one or more pipeline files, sorted by place.
///
/// Prints every problem with its line, and their number at the end.
#[derive(Clone, Debug, Default)]
pub struct Report {
    problems: Vec<Located>,
}

/// A problem and its line. Holds no value that came from a variable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Located {
    pub file: PathBuf,
    /// `None` for a problem of the file as a whole.
    pub place: Option<Place>,
    pub message: String,
    pub help: Option<String>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The whole line, as it stands in the file.
    pub source: String,
    /// How many characters of it this is about, at least 1.
    pub width: usize,
}

impl Report {
    pub fn push(&mut self, problem: Located) {
        let place = self.problems.partition_point(|other| *other < problem);
        if self.problems.get(place) != Some(&problem) {
            self.problems.insert(place, problem);
        }
    }

    pub fn extend(&mut self, other: Report) {
        for problem in other.problems {
            self.push(problem);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub fn problems(&self) -> &[Located] {
        &self.problems
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        match self.problems.len() {
            1 => write!(f, "1 problem"),
            count => write!(f, "{count} problems"),
        }
    }
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        let gutter = match &self.place {
            None => {
                writeln!(f, "  --> {}", self.file.display())?;
                2
            }
            Some(place) => {
                let line = place.line.to_string();
                let gutter = line.len().max(2);
                // A tab stays one, so that the mark stands under its text.
                let indent: String = place
                    .source
                    .chars()
                    .take(place.column - 1)
                    .map(|c| if c == '\t' { '\t' } else { ' ' })
                    .collect();
                writeln!(f, "{:gutter$}--> {}:{line}:{}", "", self.file.display(), place.column)?;
                writeln!(f, "{:gutter$} |", "")?;
                writeln!(f, "{line:>gutter$} | {}", place.source)?;
                writeln!(f, "{:gutter$} | {indent}{}", "", "^".repeat(place.width))?;
                gutter
            }
        };
        for (number, line) in self.help.iter().flat_map(|help| help.lines()).enumerate() {
            writeln!(f, "{:gutter$} {} {line}", "", if number == 0 { "=" } else { " " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: usize, message: &str) -> Located {
        Located {
            file: "a.toml".into(),
            place: Some(Place { line, column: 2, source: "\tpth = 1".into(), width: 3 }),
            message: message.into(),
            help: Some("did you mean `path`?\nallowed: `path`".into()),
        }
    }

    #[test]
    fn prints_sorted_with_marks_and_a_count() {
        let mut report = Report::default();
        for problem in [problem(12, "second"), problem(3, "first"), problem(12, "second")] {
            report.push(problem);
        }
        let printed = report.to_string();
        assert_eq!(
            printed,
            "error: first\n  --> a.toml:3:2\n   |\n 3 | \tpth = 1\n   | \t^^^\n   = did you mean `path`?\n     \
             allowed: `path`\n\nerror: second\n  --> a.toml:12:2\n   |\n12 | \tpth = 1\n   | \t^^^\n   = did \
             you mean `path`?\n     allowed: `path`\n\n2 problems"
        );
    }
}
