//! Stand-ins for services of AWS, on loopback: README.md says what each does otherwise than AWS.

mod install;
mod python;

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_sdk_sqs::config::{BehaviorVersion, Region, SharedCredentialsProvider};
use tempfile::TempDir;

pub use self::python::python;
use super::server::{Server, free_port};
use crate::support::{DEADLINE, http_client};

/// The credentials that all stand-ins take. Tests look for the secret in whatever is printed.
pub const ACCESS_KEY: &str = "AKIATESTTESTTESTTEST";
pub const SECRET_KEY: &str = "qK3sVZ8yNc0r/TestSecretThatIsNowhere+1";
pub const REGION: &str = "eu-central-1";

/// What the environment of a process says for it to reach a stand-in as whoever may everything.
pub const ENVIRONMENT: [(&str, &str); 5] = [
    ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
    ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
    ("AWS_REGION", REGION),
    // What boto3 looks at.
    ("AWS_DEFAULT_REGION", REGION),
    // Nothing of this machine is looked at.
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    /// SQS, SNS and S3, fast.
    Fauxqs,
    /// SQS, SNS, S3, Kinesis and DynamoDB: a second opinion.
    Moto,
    /// Kinesis.
    Kinesis,
    /// DynamoDB.
    Dynalite,
    /// SQS with its message move tasks.
    ElasticMq,
}

/// A server that stands in for services of AWS.
pub struct StandIn {
    what: What,
    port: u16,
    server: Server,
    _folder: TempDir,
}

impl StandIn {
    /// SQS, SNS and S3, fast.
    pub fn fauxqs() -> &'static StandIn {
        StandIn::shared(What::Fauxqs)
    }

    /// A second opinion on SQS, SNS and S3; slow.
    pub fn moto() -> &'static StandIn {
        StandIn::shared(What::Moto)
    }

    pub fn kinesis() -> &'static StandIn {
        StandIn::shared(What::Kinesis)
    }

    /// DynamoDB.
    pub fn dynalite() -> &'static StandIn {
        StandIn::shared(What::Dynalite)
    }

    /// SQS with message move tasks, which the others do not have.
    pub fn elasticmq() -> &'static StandIn {
        StandIn::shared(What::ElasticMq)
    }

    /// The one of all tests of this process, none of which stops it.
    fn shared(what: What) -> &'static StandIn {
        static SHARED: [OnceLock<StandIn>; 5] = [const { OnceLock::new() }; 5];
        SHARED[what as usize].get_or_init(|| StandIn::start(what))
    }

    fn start(what: What) -> StandIn {
        let port = free_port();
        let folder = tempfile::Builder::new().prefix("aws-").tempdir().expect("a folder for a server");
        let log = folder.path().join("log");
        let mut command = command(what, port, folder.path());
        let server = Server::start(format!("{what:?}"), &mut command, &log, folder.path());
        let stand_in = StandIn { what, port, server, _folder: folder };
        stand_in.wait_until_ready();
        stand_in
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// As a key of a pipeline.
    pub fn toml(&self) -> String {
        format!("aws = {{ region = {REGION:?}, endpoint = {:?} }}", self.url())
    }

    /// For clients of the tests, which repeat nothing.
    pub fn config(&self) -> aws_config::SdkConfig {
        let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test");
        aws_config::SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(REGION))
            .endpoint_url(self.url())
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build()
    }

    fn wait_until_ready(&self) {
        // A server that is asked by HTTP for anything answers something; one of a service, in its terms.
        let end = Instant::now() + DEADLINE;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = http_client();
        while runtime.block_on(async { client.get(self.url()).send().await }).is_err() {
            self.server.assert_runs();
            assert!(Instant::now() < end, "{:?} does not answer", self.what);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn command(what: What, port: u16, folder: &Path) -> Command {
    let port = port.to_string();
    let mut command = match what {
        What::Fauxqs => {
            let modules = install::node();
            let mut command = Command::new("node");
            command.arg(modules.join("fauxqs.mjs")).arg(&port);
            command
        }
        What::Kinesis => {
            let modules = install::node();
            // Its certificate is looked for in the working directory.
            let package = modules.join("node_modules/kinesis-local");
            let mut command = Command::new("node");
            command.arg("--require").arg(modules.join("loopback.cjs")).arg("main.js").current_dir(package);
            command.env("KINESIS_MOCK_PLAIN_PORT", &port);
            command.env("KINESIS_MOCK_TLS_PORT", free_port().to_string());
            command.env("SHARD_LIMIT", "1000").env("LOG_LEVEL", "ERROR").env("AWS_REGION", REGION);
            for step in ["CREATE_STREAM", "DELETE_STREAM", "MERGE_SHARDS", "SPLIT_SHARD"] {
                command.env(format!("{step}_DURATION"), "20ms");
            }
            command
        }
        What::Dynalite => {
            let mut command = Command::new("node");
            command.arg(install::node().join("node_modules/dynalite/cli.js"));
            command.args(["--host", "127.0.0.1", "--port", &port, "--createTableMs", "20"]);
            command
        }
        What::ElasticMq => {
            let config = folder.join("elasticmq.conf");
            std::fs::write(&config, elasticmq_conf(&port)).expect("a configuration of ElasticMQ");
            let mut command = Command::new("java");
            command.args(["-XX:+UseSerialGC", "-Xmx256m"]).arg(format!("-Dconfig.file={}", config.display()));
            command.arg("-cp").arg(format!("{}/libs/*", install::elasticmq().display()));
            command.arg("org.elasticmq.server.Main");
            command
        }
        What::Moto => {
            // Not by its script, which knows where it was installed: a target folder may be moved.
            let mut command = Command::new(install::python());
            command.args(["-m", "moto.server", "--host", "127.0.0.1", "--port", &port]);
            command
        }
    };
    command.env("HOME", folder);
    command
}

fn elasticmq_conf(port: &str) -> String {
    format!(
        "include classpath(\"reference.conf\")\n\
         node-address {{ protocol = http, host = \"127.0.0.1\", port = {port}, context-path = \"\" }}\n\
         rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = \"127.0.0.1\", sqs-limits = strict }}\n\
         rest-stats {{ enabled = false }}\n\
         aws {{ region = {REGION:?} }}\n"
    )
}
