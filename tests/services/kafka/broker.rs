//! How brokers are configured, formatted and started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::install::java;
use crate::services::server::{Server, free_port};

/// How brokers are configured that do not exist yet.
pub struct Plan {
    brokers: u32,
    /// Listeners beside that of the tests, which is `PLAINTEXT`: their names and their protocols.
    pub listeners: Vec<(&'static str, &'static str)>,
    pub properties: BTreeMap<String, String>,
    /// Arguments of the tool that formats the storage.
    pub format: Vec<String>,
    /// Options of the JVM.
    pub jvm: Vec<String>,
}

impl Plan {
    pub fn new(brokers: u32) -> Plan {
        let replicas = if brokers < 3 { 1 } else { 3 };
        let in_sync = if brokers < 3 { 1 } else { 2 };
        let properties = [
            ("process.roles", "broker,controller"),
            ("controller.listener.names", "CONTROLLER"),
            ("inter.broker.listener.name", "PLAINTEXT"),
            ("auto.create.topics.enable", "false"),
            ("log.segment.delete.delay.ms", "1000"),
            // A group begins at once, and notices a dead member as early as a test asks for.
            ("group.initial.rebalance.delay.ms", "0"),
            ("group.min.session.timeout.ms", "1000"),
            ("group.consumer.min.session.timeout.ms", "1000"),
            ("group.consumer.session.timeout.ms", "3000"),
            ("group.consumer.min.heartbeat.interval.ms", "200"),
            ("group.consumer.heartbeat.interval.ms", "500"),
            // As does the cluster with a dead broker, and with a transaction that nobody ends.
            ("broker.session.timeout.ms", "4000"),
            ("broker.heartbeat.interval.ms", "500"),
            ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500"),
            // What a broker makes at its first use is small.
            ("offsets.topic.num.partitions", "4"),
            ("transaction.state.log.num.partitions", "4"),
            ("share.coordinator.state.topic.num.partitions", "1"),
            ("num.partitions", "1"),
            ("num.network.threads", "2"),
            ("num.io.threads", "4"),
            ("log.cleaner.dedupe.buffer.size", "16777216"),
        ];
        let mut properties: BTreeMap<String, String> =
            properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        for key in ["offsets.topic", "default", "transaction.state.log", "share.coordinator.state.topic"] {
            properties.insert(format!("{key}.replication.factor"), replicas.to_string());
        }
        for key in
            ["min.insync.replicas", "transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr"]
        {
            properties.insert(key.to_owned(), in_sync.to_string());
        }
        Plan { brokers, listeners: Vec::new(), properties, format: Vec::new(), jvm: Vec::new() }
    }

    /// Gives each broker its ports, and formats its storage under `folder`.
    pub(super) fn format(self, folder: &Path) -> Vec<Broker> {
        let controllers: Vec<u16> = (0..self.brokers).map(|_| free_port()).collect();
        let voters: Vec<String> =
            controllers.iter().enumerate().map(|(node, port)| format!("{node}@127.0.0.1:{port}")).collect();
        // 16 bytes, in the Base64 of Kafka's ids. Its first character is no `-`, as options begin with.
        let cluster = URL_SAFE_NO_PAD.encode((rand::random::<u128>() >> 1).to_be_bytes());
        let mut brokers = Vec::new();
        for (node, controller) in controllers.iter().enumerate() {
            let home = folder.join(node.to_string());
            std::fs::create_dir(&home).expect("a folder for a broker");
            let mut listeners = vec![("PLAINTEXT", "PLAINTEXT")];
            listeners.extend(&self.listeners);
            let ports: BTreeMap<&'static str, u16> =
                listeners.iter().map(|(name, _)| (*name, free_port())).collect();
            let mut properties = self.properties.clone();
            let addresses: Vec<String> =
                ports.iter().map(|(name, port)| format!("{name}://127.0.0.1:{port}")).collect();
            let mut protocols: Vec<String> =
                listeners.iter().map(|(name, protocol)| format!("{name}:{protocol}")).collect();
            protocols.push("CONTROLLER:PLAINTEXT".to_owned());
            for (key, value) in [
                ("node.id", node.to_string()),
                ("controller.quorum.voters", voters.join(",")),
                ("advertised.listeners", addresses.join(",")),
                ("listeners", format!("{},CONTROLLER://127.0.0.1:{controller}", addresses.join(","))),
                ("listener.security.protocol.map", protocols.join(",")),
                ("log.dirs", home.join("data").display().to_string()),
            ] {
                properties.insert(key.to_owned(), value);
            }
            let text: String = properties.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
            std::fs::write(home.join("properties"), text).expect("the properties can be written");
            let broker = Broker { node, home, ports, jvm: self.jvm.clone(), server: Mutex::default() };
            broker.format(&cluster, &self.format);
            brokers.push(broker);
        }
        brokers
    }
}

pub struct Broker {
    node: usize,
    home: PathBuf,
    /// Of each listener.
    ports: BTreeMap<&'static str, u16>,
    jvm: Vec<String>,
    /// While it runs.
    server: Mutex<Option<Server>>,
}

impl Broker {
    /// Where tests reach it.
    pub fn address(&self) -> String {
        self.address_of("PLAINTEXT")
    }

    pub fn address_of(&self, listener: &str) -> String {
        format!("127.0.0.1:{}", self.ports[listener])
    }

    fn format(&self, cluster: &str, more: &[String]) {
        let mut tool = java(&["-XX:TieredStopAtLevel=1"]);
        tool.args(["kafka.tools.StorageTool", "format", "--cluster-id", cluster]).args(more);
        let output = tool.arg("--config").arg(self.home.join("properties")).output().expect("java runs");
        let printed = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "its storage: {}", String::from_utf8_lossy(&printed));
    }

    pub fn start(&self) {
        let mut command = java(&["-Xmx512m"]);
        // The options of the JVM come before the class.
        command.args(&self.jvm).arg("kafka.Kafka").arg(self.home.join("properties"));
        let folder = self.home.parent().expect("that of the cluster");
        let name = format!("broker {}", self.node);
        let server = Server::start(name, &mut command, &self.home.join("log"), folder);
        let before = self.server.lock().expect("no panic").replace(server);
        assert!(before.is_none(), "it ran already");
    }

    /// Does something to the process of a broker that runs.
    pub fn with_server(&self, act: impl FnOnce(&Server)) {
        act(self.server.lock().expect("no panic").as_ref().expect("it runs"));
    }

    /// Fails the test if it has ended by itself.
    pub fn assert_runs_if_started(&self) {
        if let Some(server) = &*self.server.lock().expect("no panic") {
            server.assert_runs();
        }
    }

    /// The process of a broker that then counts as not running.
    pub fn take(&self) -> Server {
        self.server.lock().expect("no panic").take().expect("it runs")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }
}
