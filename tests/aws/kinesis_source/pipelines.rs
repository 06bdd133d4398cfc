//! The pipeline `kinesis-to-file.toml`, as it stands in `pipelines/`.

use serde_json::{Value, json};

use super::world::{Stream, wait_for};
use crate::services::aws::{ENVIRONMENT, StandIn};
use crate::support::{Folder, Running, data_folder, millstream, repository};

#[test]
fn events_of_a_stream_are_archived_without_who_they_are_about() {
    let (stream, folder) = (Stream::new(2), Folder::new());
    let event = |number: usize| {
        let data = json!({ "order": number, "customer": { "email": "ada@shop.example" } });
        json!({
            "id": format!("c2f199fb-b099-4111-a1cb-{number:012}"), "type": "order.placed",
            "timestamp": "2026-01-31T12:00:00Z", "source": "shop", "specversion": "1.0", "metadata": {},
            "correlationId": "r-1", "data": data,
        })
    };
    for number in 0..10 {
        stream.put(&format!("o-{number}"), event(number).to_string().as_bytes());
    }
    let file = std::fs::read_to_string(repository().join("pipelines/kinesis-to-file.toml"));
    let pipeline = folder.write("kinesis-to-file.toml", &file.expect("the pipeline"));
    let data = data_folder(&folder);
    let [path, data] = [&pipeline, &data].map(|path| path.to_str().expect("UTF-8"));
    let mut command = millstream(&["run", path, "--admin", "127.0.0.1:0", "--data-dir", data]);
    command.envs(ENVIRONMENT).env("KINESIS_STREAM", &stream.name);
    command.env("AWS_ENDPOINT_URL_KINESIS", StandIn::kinesis().url());
    command.env("AWS_ENDPOINT_URL_DYNAMODB", StandIn::dynalite().url());
    let mut running = Running::of(&folder, &mut command);
    wait_for("all events in the archive", || folder.lines("out/orders.ndjson").len() >= 10);
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
    let mut archived: Vec<usize> = Vec::new();
    for line in folder.lines("out/orders.ndjson") {
        let record: Value = serde_json::from_str(&line).expect("a record a line");
        let event: Value = serde_json::from_str(record["payload"].as_str().expect("text")).expect("JSON");
        let number = event["data"]["order"].as_u64().expect("a number") as usize;
        assert_eq!(record["key"], format!("o-{number}"));
        assert_eq!(event["data"]["customer"]["email"], "***");
        archived.push(number);
    }
    archived.sort_unstable();
    assert_eq!(archived, (0..10).collect::<Vec<_>>());
}
