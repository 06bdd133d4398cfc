//! Results as JUnit XML, which most build servers show.

use std::fs::File;
use std::path::Path;

use anyhow::Context;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{CaseResult, FileResult};

/// Writes one suite for each pipeline file.
pub fn write(path: &Path, results: &[FileResult]) -> anyhow::Result<()> {
    let mut report = Report::new("millstream test");
    for file in results {
        let name = file.file.display().to_string();
        let mut suite = TestSuite::new(name.clone());
        for case in &file.cases {
            let mut test = TestCase::new(case.name.clone(), status(case));
            test.set_classname(name.clone()).set_time(case.time);
            suite.add_test_case(test);
        }
        report.add_test_suite(suite);
    }
    let cannot_write = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(cannot_write)?;
    report.serialize(file).with_context(cannot_write)
}

fn status(case: &CaseResult) -> TestCaseStatus {
    let Some(first) = case.failures.first() else { return TestCaseStatus::success() };
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(first.lines().next().unwrap_or_default());
    status.set_description(case.failures.join("\n"));
    status
}
