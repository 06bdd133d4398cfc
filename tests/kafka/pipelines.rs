//! The pipelines under `pipelines/` that need Kafka, as they stand there, against a broker of their own:
//! their topics have fixed names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};

use crate::services::kafka::{Kafka, Record};
use crate::support::{Folder, Running, data_folder, http_client, millstream, repository};

/// For those who start the saga: its services are members of the same groups.
static SAGA: Mutex<()> = Mutex::new(());

const TOPICS: [&str; 3] = ["orders", "payments", "inventory"];

/// One broker for all of these tests, whose orders have names of their own.
fn kafka() -> &'static Kafka {
    static BROKER: OnceLock<Kafka> = OnceLock::new();
    BROKER.get_or_init(|| {
        let kafka = Kafka::start();
        for topic in TOPICS.iter().chain(&["orders-large", "orders-dead-letters"]) {
            kafka.create_topic(topic, 3, &[]);
        }
        kafka
    })
}

/// `millstream run` of a file or a folder under `pipelines/`, with these variables.
fn start(folder: &Folder, path: &str, variables: &[(&str, &str)]) -> Running {
    let path = repository().join("pipelines").join(path);
    let data = if folder.path("data").exists() { folder.path("data") } else { data_folder(folder) };
    let (path, data) = (path.to_str().expect("UTF-8"), data.to_str().expect("UTF-8"));
    let mut command = millstream(&["run", path, "--admin", "127.0.0.1:0", "--data-dir", data]);
    command.env("KAFKA_BROKER", kafka().bootstrap()).envs(variables.iter().copied());
    Running::of(folder, command.stdout(std::process::Stdio::null()))
}

fn order(name: &str, sku: &str, quantity: u32, total: u32) -> Value {
    json!({ "order": name, "customer": { "email": "ada@shop.example" }, "sku": sku, "quantity": quantity, "total": total })
}

/// The event that an order was placed.
fn placed(id: &str, order: &Value) -> Record {
    let event = json!({
        "id": id, "type": "order.placed", "timestamp": "2026-01-31T12:00:00Z", "source": "shop",
        "specversion": "1.0", "metadata": {}, "correlationId": format!("request-{id}"), "data": order,
    });
    Record::new(order["order"].as_str().expect("a name"), &event.to_string())
}

fn id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The events of a topic that a pipeline made or answers, by the order that they are of.
fn events(topic: &str) -> Vec<(String, Value)> {
    let event = |record: Record| {
        let key = String::from_utf8(record.key.clone().expect("a key")).expect("UTF-8");
        (key, serde_json::from_str(record.text()).expect("JSON"))
    };
    kafka().consume(topic).into_iter().map(event).collect()
}

/// Events of all topics of the saga whose order's name begins so, by order and id. One that comes again is
/// the same.
fn sagas(prefix: &str) -> BTreeMap<String, BTreeMap<String, Value>> {
    let mut sagas: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for topic in TOPICS {
        for (order, event) in events(topic).into_iter().filter(|(order, _)| order.starts_with(prefix)) {
            let id = event["id"].as_str().expect("an id").to_owned();
            let of_order = sagas.entry(order).or_default();
            let known = of_order.entry(id).or_insert_with(|| event.clone());
            assert_eq!(*known, event, "two events have one id");
        }
    }
    sagas
}

/// The types of an order's events, from the first to the last, along `causationId`; shorter while not all
/// have come.
fn chain(events: &BTreeMap<String, Value>) -> Vec<String> {
    let caused_by = |cause: &Value| -> Vec<&Value> {
        events.values().filter(|event| event["causationId"] == *cause).collect()
    };
    let mut chain = Vec::new();
    let mut next = caused_by(&Value::Null);
    while let [event] = next[..] {
        chain.push(event["type"].as_str().expect("a type").to_owned());
        next = caused_by(&event["id"]);
    }
    assert!(next.is_empty(), "one event has one answer: {next:?}");
    let correlations: BTreeSet<&str> =
        events.values().map(|event| event["correlationId"].as_str().expect("a correlation")).collect();
    assert_eq!(correlations.len(), 1, "all are of one process: {events:?}");
    chain
}

/// Waits until each order has come to its end, as its kind says.
fn wait_for_ends(services: &mut Running, prefix: &str, names: &[String]) {
    services.wait_for("the end of each order", |_| {
        let sagas = sagas(prefix);
        let is_there = |(number, name): (usize, &String)| {
            sagas.get(name).is_some_and(|events| {
                events.len() == CHAINS[number % 3].len() && chain(events) == CHAINS[number % 3]
            })
        };
        names.iter().enumerate().all(is_there)
    });
}

/// What becomes of an order that can be had, of one too dear, and of one whose goods are not there.
const CHAINS: [&[&str]; 3] = [
    &["order.placed", "payment.captured", "inventory.reserved", "order.confirmed"],
    &["order.placed", "payment.declined", "order.cancelled"],
    &["order.placed", "payment.captured", "inventory.rejected", "payment.refunded", "order.cancelled"],
];

fn of_kind(kind: usize, name: &str) -> Value {
    match kind {
        0 => order(name, "tea", 2, 25),
        1 => order(name, "tea", 50, 2500),
        _ => order(name, "coffee", 4, 40),
    }
}

#[test]
fn orders_that_come_by_http_go_through_the_saga_and_what_cannot_be_had_is_undone() {
    let _alone = SAGA.lock().unwrap_or_else(PoisonError::into_inner);
    let (shop, saga) = (Folder::new(), Folder::new());
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let mut running = start(&shop, "http-to-kafka.toml", &[("PORT", &port.to_string())]);
    let mut services = start(&saga, "orders-saga-choreography", &[]);
    running.wait_for("a server", |running| running.log().contains("sources::http: listening"));
    let prefix = id();
    let names: Vec<String> = (0..3).map(|kind| format!("{prefix}-{kind}")).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (kind, name) in names.iter().enumerate() {
        let request = http_client()
            .post(format!("http://127.0.0.1:{port}/orders"))
            .header("x-order", name)
            .header("x-request-id", format!("request-{name}"))
            .body(of_kind(kind, name).to_string());
        let status = runtime.block_on(request.send()).expect("an answer").status();
        assert_eq!(status, 200, "{}", running.log());
        // An answer of 200 says that it is there.
        assert!(events("orders").iter().any(|(order, _)| order == name), "{name} is not in the topic");
    }
    wait_for_ends(&mut services, &prefix, &names);
    let sagas = sagas(&prefix);
    for name in &names {
        let correlation = format!("request-{name}");
        assert!(sagas[name].values().all(|event| event["correlationId"] == correlation), "{name}");
    }
    for mut running in [running, services] {
        running.terminate();
        assert!(running.end().success(), "{}", running.log());
    }
}

#[test]
fn p2_a_saga_that_is_killed_goes_on_and_makes_the_same_events_again() {
    let _alone = SAGA.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Folder::new();
    let prefix = id();
    let names: Vec<String> = (0..60).map(|number| format!("{prefix}-{number}")).collect();
    let mut services = start(&folder, "orders-saga-choreography", &[]);
    // It has begun before it is killed.
    let first = format!("{prefix}-first");
    kafka().produce("orders", [placed(&id(), &of_kind(0, &first))]);
    wait_for_ends(&mut services, &prefix, std::slice::from_ref(&first));
    let orders = names.iter().enumerate().map(|(number, name)| placed(&id(), &of_kind(number % 3, name)));
    kafka().produce("orders", orders);
    services
        .wait_for("a first answer", |_| events("payments").iter().any(|(order, _)| names.contains(order)));
    services.kill();
    let mut services = start(&folder, "orders-saga-choreography", &[]);
    wait_for_ends(&mut services, &prefix, &names);
    services.terminate();
    assert!(services.end().success(), "{}", services.log());
}

#[test]
fn orders_are_sent_to_a_service_that_comes_later_each_with_a_key_of_its_own() {
    let (folder, service) = (Folder::new(), Folder::new());
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let url = format!("http://127.0.0.1:{port}/picks");
    let mut running = start(&folder, "kafka-to-http.toml", &[("WAREHOUSE_URL", &url)]);
    let prefix = id();
    let names: Vec<String> = (0..20).map(|number| format!("{prefix}-{number:02}")).collect();
    kafka().produce("orders", names.iter().map(|name| placed(&id(), &of_kind(0, name))));
    running.wait_for("that it waits for the service", |running| {
        running.log().lines().any(|line| line.contains("WARN") && line.contains("sink"))
    });

    let warehouse = format!(
        "name = \"warehouse\"\n[source]\ntype = \"http\"\nlisten = \"127.0.0.1:{port}\"\npath = \"/picks\"\n\
         [[sink]]\ntype = \"file\"\npath = \"picks.ndjson\"\ncodec = \"record\"\n"
    );
    let warehouse = Running::start(&service, &service.write("warehouse.toml", &warehouse));
    let picks = || -> BTreeMap<String, (Value, String)> {
        let lines = service.lines("picks.ndjson");
        let records = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("a record"));
        let pick = |record: Value| {
            let body: Value = serde_json::from_str(record["payload"].as_str()?).ok()?;
            let key = record["headers"]["idempotency-key"].as_str()?.to_owned();
            Some((body["order"].as_str()?.to_owned(), (body, key)))
        };
        let ours = records.filter_map(pick).filter(|(order, _)| order.starts_with(&prefix));
        ours.collect()
    };
    running.wait_for("every order", |_| picks().len() == names.len());
    let picks = picks();
    for name in &names {
        assert_eq!(picks[name].0, json!({ "order": name, "sku": "tea", "quantity": 2 }));
    }
    let keys: BTreeSet<&String> = picks.values().map(|(_, key)| key).collect();
    assert_eq!(keys.len(), names.len(), "each has a key of its own");
    for mut running in [running, warehouse] {
        running.terminate();
        assert!(running.end().success(), "{}", running.log());
    }
}

#[test]
fn large_orders_arrive_exactly_once_and_in_order_though_the_process_is_killed() {
    let folder = Folder::new();
    let (prefix, large) = (id(), 300);
    let key = |number: usize| format!("{prefix}-{}", number % 7);
    let of = |topic: &str| -> Vec<(String, Record)> {
        let key =
            |record: &Record| String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
        let records = kafka().consume(topic).into_iter().map(|record| (key(&record), record));
        records.filter(|(key, _)| key.starts_with(&prefix)).collect()
    };
    let record = |number: usize| {
        let mut order = order(&key(number), "tea", 50, 500 + number as u32);
        match number % 10 {
            // Too small, and no event at all.
            7 => order["total"] = 499.into(),
            8 => return Record::new(&key(number), &order.to_string()),
            _ => {}
        }
        placed(&id(), &order)
    };
    let mut running = start(&folder, "kafka-to-kafka.toml", &[]);
    kafka().produce("orders", (0..large / 3).map(record));
    running.wait_for("the first orders", |_| !of("orders-large").is_empty());
    kafka().produce("orders", (large / 3..large).map(record));
    running.kill();
    let mut running = start(&folder, "kafka-to-kafka.toml", &[]);
    let expected: Vec<usize> = (0..large).filter(|number| !matches!(number % 10, 7 | 8)).collect();
    running.wait_for("every order", |_| {
        of("orders-large").len() >= expected.len() && of("orders-dead-letters").len() >= large / 10
    });
    running.terminate();
    assert!(running.end().success(), "{}", running.log());

    let mut totals: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (key, record) in of("orders-large") {
        let event: Value = serde_json::from_str(record.text()).expect("JSON");
        assert_eq!(event["data"]["customer"]["email"], "***", "{event}");
        totals.entry(key).or_default().push(event["data"]["total"].as_u64().expect("a total"));
    }
    let mut wanted: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for number in expected {
        wanted.entry(key(number)).or_default().push(500 + number as u64);
    }
    assert_eq!(totals, wanted);
    assert_eq!(of("orders-dead-letters").len(), large / 10);
}
