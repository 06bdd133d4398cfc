//! Files with schemas.

use std::path::Path;

use crate::config::problem::Problem;

/// The text of a file, relative to the pipeline file; or what is wrong with the key `at`.
pub fn read(base: &Path, file: &Path, at: &str) -> Result<String, Problem> {
    let path = base.join(file);
    std::fs::read_to_string(&path)
        .map_err(|error| Problem::new(at, format!("cannot read {}: {error}", path.display())))
}

/// The texts of several files.
pub fn read_all<'f>(
    base: &Path,
    files: impl Iterator<Item = &'f Path>,
    at: &str,
) -> Result<Vec<String>, Problem> {
    files.enumerate().map(|(index, file)| read(base, file, &format!("{at}/{index}"))).collect()
}
