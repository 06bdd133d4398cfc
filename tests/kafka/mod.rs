//! Kafka, end to end, against the real one (`tests/services`).

mod brokers;
mod dead_letters;
mod exactly_once;
mod fleet;
mod groups;
mod kills;
mod pipelines;
mod security;
mod sink;
mod through;
mod traced;
mod troubles;

use std::path::PathBuf;

use serde_json::Value;

use crate::services::kafka::{Kafka, unique};
use crate::support::{Folder, Running, ask, look, metric, run};

/// A pipeline that copies a topic to another as a member of a group. The keys of its sections can be
/// added to.
struct Copy {
    group: String,
    from: String,
    to: String,
    brokers: String,
    /// Of the file itself.
    top: String,
    source: String,
    sink: String,
    /// Sections at its end.
    more: String,
}

impl Copy {
    fn new(kafka: &Kafka, from: &str, to: &str) -> Copy {
        Copy {
            group: unique("copy"),
            from: from.to_owned(),
            to: to.to_owned(),
            brokers: kafka.brokers_toml(),
            top: String::new(),
            source: String::new(),
            sink: String::new(),
            more: String::new(),
        }
    }

    /// Has it write in transactions.
    fn be_exactly_once(&mut self) {
        // So long the others wait for a transaction of a dead member.
        self.top = "delivery = \"exactly-once\"\ntransaction_timeout = \"5s\"".to_owned();
        let Copy { brokers, to, .. } = self;
        self.more = format!("[dead_letters]\ntype = \"kafka\"\n{brokers}\ntopic = \"{to}-dead\"\n");
    }

    /// The beginning of a section.
    fn sink_section(&self, name: &str, topic: &str) -> String {
        let brokers = &self.brokers;
        format!("[[sink]]\nname = \"{name}\"\ntype = \"kafka\"\n{brokers}\ntopic = \"{topic}\"\n")
    }

    /// Its file in a folder.
    fn write(&self, folder: &Folder) -> PathBuf {
        let Copy { group, from, to, brokers, top, source, sink, more } = self;
        let section = self.sink_section("out", to);
        folder.write(
            "copy.toml",
            &format!(
                r#"
name = "copy"
ordering = "key"
{top}

[[plugin]]
use = "route"
config.default = ["out"]
config.rules = []

[retry]
base_delay = "20ms"
max_delay = "1s"

[source]
type = "kafka"
{brokers}
topics = ["{from}"]
group = "{group}"
{source}

{section}
{sink}

{more}
"#
            ),
        )
    }
}

/// A process that runs the pipeline, in a folder of its own.
struct Member {
    folder: Folder,
    pipeline: PathBuf,
    running: Running,
    admin: String,
}

impl Member {
    fn start(copy: &Copy) -> Member {
        let folder = Folder::new();
        let pipeline = copy.write(&folder);
        Member::start_in(folder, pipeline)
    }

    fn start_in(folder: Folder, pipeline: PathBuf) -> Member {
        let mut running = Running::start(&folder, &pipeline);
        let admin = running.address("admin server listening");
        Member { folder, pipeline, running, admin }
    }

    /// Waits for something to happen while it runs; at each look the books balance (P11).
    fn wait_for(&mut self, what: &str, mut happened: impl FnMut() -> bool) {
        let Member { running, admin, .. } = self;
        running.wait_for(what, |_| {
            look(admin);
            happened()
        });
    }

    /// Waits until a topic has that many messages.
    fn wait_for_messages(&mut self, kafka: &Kafka, topic: &str, messages: i64) {
        self.wait_for(&format!("{messages} messages in {topic}"), || kafka.count(topic) >= messages);
    }

    /// Waits until the group has committed everything that is in the topic it reads.
    fn wait_until_committed(&mut self, kafka: &Kafka, copy: &Copy) {
        let Copy { group, from, .. } = copy;
        self.wait_for("everything is committed", || kafka.committed(group, from) == kafka.ends(from));
    }

    fn wait_for_log(&mut self, text: &str) {
        let Member { running, admin, .. } = self;
        running.wait_for(&format!("{text:?} in the log"), |running| {
            look(admin);
            running.log().contains(text)
        });
    }

    /// Waits until it says that it is ready, or that it is not, with this text.
    fn wait_until_ready(&mut self, ready: bool, text: &str) {
        let Member { running, admin, .. } = self;
        running.wait_for(&format!("ready: {ready}, {text:?}"), |_| {
            ask(admin, "/readyz")
                .is_some_and(|(status, said)| (status == 200) == ready && said.contains(text))
        });
    }

    fn account(&self, account: &str) -> u64 {
        let page = look(&self.admin).expect("it answers");
        let account = format!("account=\"{account}\"");
        metric(&page, "millstream_messages", &[&account]).expect("it has this account")
    }

    /// SIGKILL.
    fn kill(self) -> Stopped {
        self.running.kill();
        Stopped { folder: self.folder, pipeline: self.pipeline }
    }

    /// SIGTERM; it must end well.
    fn stop(mut self) -> Stopped {
        self.running.terminate();
        let status = self.running.end();
        assert!(status.success(), "it ended with {status}\n{}", self.running.log());
        Stopped { folder: self.folder, pipeline: self.pipeline }
    }
}

/// What a process left behind.
struct Stopped {
    folder: Folder,
    pipeline: PathBuf,
}

impl Stopped {
    fn start(self) -> Member {
        Member::start_in(self.folder, self.pipeline)
    }

    fn dead_letters(&self) -> Vec<Value> {
        dead_letters(self.pipeline.to_str().expect("UTF-8"))
    }
}

fn dead_letters(pipeline: &str) -> Vec<Value> {
    let (status, out, errors) = run(&["dlq", "list", pipeline, "--json"]);
    assert!(status.success(), "{errors}");
    out.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}
