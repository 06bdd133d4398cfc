//! What another implementation does: boto3 and Amazon's extended client for Python.

use std::process::Command;

use super::{ENVIRONMENT, REGION, StandIn, install};

/// Runs a Python program against a stand-in, with `boto3` imported and `client("sqs")` defined, and
/// returns what it prints. Fails the test if it fails.
pub fn python(stand_in: &StandIn, program: &str, arguments: &[&str]) -> String {
    let url = stand_in.url();
    let program = format!(
        "import base64, boto3, json, sys\n\
         def client(service):\n    return boto3.client(service, endpoint_url={url:?}, region_name={REGION:?})\n\
         {program}"
    );
    let mut command = Command::new(install::python());
    command.arg("-c").arg(&program).args(arguments).envs(ENVIRONMENT);
    let output = command.output().expect("a Python");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program}\n{}", text(&output.stderr));
    text(&output.stdout)
}
