//! A pipeline that reads a queue and runs until it has done what a test waits for.

use std::path::PathBuf;

use serde_json::Value;

use super::queues::Queue;
use super::sinks::{dead_letters, start};
use crate::services::aws::{ENVIRONMENT, StandIn};
use crate::support::{Folder, millstream};

/// From a queue to a file of records.
pub struct FromQueue {
    pub queue: Queue,
    pub folder: Folder,
    file: PathBuf,
}

impl FromQueue {
    /// `keys` are more keys of the source.
    pub fn new(stand_in: &'static StandIn, keys: &str) -> FromQueue {
        FromQueue::of(stand_in, Queue::standard(stand_in), keys)
    }

    pub fn of(stand_in: &'static StandIn, queue: Queue, keys: &str) -> FromQueue {
        let folder = Folder::new();
        let file = folder.write(
            "queue.toml",
            &format!(
                r#"
name = "queue"
ordering = "none"
[[sink]]
type = "file"
path = "out.ndjson"
codec = "record"
[source]
type = "sqs"
queue = "{}"
wait_time = "1s"
{}
{keys}
"#,
                queue.name,
                stand_in.toml()
            ),
        );
        FromQueue { queue, folder, file }
    }

    /// Runs until so many messages were delivered and so many are dead letters, and stops. What was
    /// delivered, in any order, and the dead letters.
    #[track_caller]
    pub fn run(&self, delivered: usize, dead: usize) -> (Vec<Value>, Vec<Value>) {
        let mut running = start(&self.folder, &self.file);
        let admin = running.address("admin server listening");
        running.wait_for(&format!("{delivered} delivered, {dead} dead letters"), |_| {
            let page = crate::support::look(&admin).unwrap_or_default();
            let of = |account| {
                crate::support::metric(&page, "millstream_messages", &[account]).unwrap_or(0) as usize
            };
            of("account=\"delivered\"") >= delivered && of("account=\"dead_lettered\"") >= dead
        });
        running.terminate();
        assert!(running.end().success(), "{}", running.log());
        let records = self.folder.lines("out.ndjson");
        let records = records.iter().map(|line| serde_json::from_str(line).expect("a record")).collect();
        let letters = dead_letters(&self.file);
        (records, letters)
    }
}

/// Runs the binary to its end, as whoever may everything at the stand-ins.
pub fn run(arguments: &[&str]) -> (bool, String, String) {
    let output = millstream(arguments).envs(ENVIRONMENT).output().expect("the binary starts");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}
