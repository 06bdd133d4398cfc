//! Pipelines of the folder `pipelines`, as they stand there, and what `check --connect` says of queues.

use std::process::Stdio;

use serde_json::{Value, json};

use super::around::run;
use super::queues::Queue;
use super::sinks::unique;
use crate::services::aws::{ENVIRONMENT, StandIn, python};
use crate::support::{DEADLINE, Folder, Running, millstream, repository};

#[test]
fn each_request_gets_its_reply_and_nobody_else_one() {
    let stand_in = StandIn::fauxqs();
    let (requests, folder) = (Queue::standard(stand_in), Folder::new());
    let mine = Queue::create(stand_in, &format!("quotes-replies-{}", unique("mine")));
    let yours = Queue::create(stand_in, &format!("quotes-replies-{}", unique("yours")));
    let file = repository().join("pipelines/request-reply.toml").display().to_string();
    let data = folder.path("data").display().to_string();
    let mut command = millstream(&["run", &file, "--data-dir", &data, "--admin", "127.0.0.1:0"]);
    command.envs(ENVIRONMENT).env("AWS_ENDPOINT_URL", stand_in.url()).env("QUOTES_QUEUE", &requests.name);
    let mut running = Running::of(&folder, command.stdout(Stdio::null()));

    let ask = "replies = json.loads(sys.argv[2])\n\
               for n, to in enumerate(replies):\n\
               \x20   client('sqs').send_message(QueueUrl=sys.argv[1], MessageBody=json.dumps({'sku': 'tea', 'quantity': n, 'price': 2}),\n\
               \x20       MessageAttributes={k: {'DataType': 'String', 'StringValue': v} for k, v in {'correlation-id': f'c-{n}', 'reply-to': to}.items()})";
    let to = [&mine.name, &yours.name, &mine.name, "others", "quotes-replies-nowhere"];
    python(stand_in, ask, &[&requests.url, &json!(to).to_string()]);
    let replies = |queue: &Queue, count| -> Vec<(String, Value)> {
        let mut replies: Vec<(String, Value)> = queue
            .drain(count)
            .iter()
            .map(|message| {
                let attributes = message.message_attributes().expect("attributes");
                assert_eq!(attributes.len(), 1, "{attributes:?}");
                let id = attributes["correlation-id"].string_value().expect("a text").to_owned();
                (id, serde_json::from_str(message.body().expect("a body")).expect("JSON"))
            })
            .collect();
        replies.sort_by(|(one, _), (other, _)| one.cmp(other));
        replies
    };
    let reply = |n: u64| (format!("c-{n}"), json!({ "sku": "tea", "quantity": n, "total": 2 * n }));
    assert_eq!(replies(&mine, 2), [reply(0), reply(2)]);
    assert_eq!(replies(&yours, 1), [reply(1)]);
    let letters = || -> Vec<Value> {
        let (done, out, err) = run(&["dlq", "list", &file, "--data-dir", &data, "--json"]);
        assert!(done, "{err}");
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    running.wait_for("two dead letters", |_| letters().len() == 2);
    let mut codes: Vec<String> =
        letters().iter().map(|letter| letter["code"].as_str().expect("a code").to_owned()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["queue-not-allowed", "unknown-queue"]);
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
    assert_eq!(requests.drain(0).len(), 0);
}

#[test]
fn check_warns_of_a_redrive_policy_that_is_tighter_than_max_failures() {
    for stand_in in [StandIn::fauxqs(), StandIn::moto()] {
        let (dead, queue, folder) = (Queue::standard(stand_in), unique("queue"), Folder::new());
        let create = "policy = json.dumps({'deadLetterTargetArn': sys.argv[2], 'maxReceiveCount': '3'})\n\
                      client('sqs').create_queue(QueueName=sys.argv[1], Attributes={'RedrivePolicy': policy})";
        python(stand_in, create, &[&queue, &dead.arn()]);
        let write = |max_failures: u32| {
            let text = format!(
                "name = \"q\"\nordering = \"none\"\n[source]\ntype = \"sqs\"\nqueue = \"{queue}\"\nmax_failures = {max_failures}\n{}\n\
                 [[sink]]\ntype = \"drop\"\n",
                stand_in.toml()
            );
            folder.write("q.toml", &text).display().to_string()
        };
        let file = write(3);
        let (done, out, err) = run(&["check", &file, "--connect"]);
        assert!(done, "{out}{err}");
        let warning = format!(
            "warning: the queue's redrive policy moves a message to {} once it was received 3 times",
            dead.name
        );
        assert!(out.contains(&warning), "{out}");
        // Nobody is asked unless one says so.
        let (_, out, _) = run(&["check", &file]);
        assert!(!out.contains("redrive"), "{out}");
        let (done, out, _) = run(&["check", &write(2), "--connect"]);
        assert!(done && !out.contains("redrive"), "{out}");
    }
}

#[test]
fn check_says_that_a_queue_cannot_be_asked() {
    let folder = Folder::new();
    let text = "name = \"q\"\nordering = \"none\"\n[source]\ntype = \"sqs\"\nqueue = \"q\"\n\
                aws = { endpoint = \"http://127.0.0.1:1\" }\n[[sink]]\ntype = \"drop\"\n";
    let file = folder.write("q.toml", text).display().to_string();
    let started = std::time::Instant::now();
    let (done, out, err) = run(&["check", &file, "--connect"]);
    assert!(!done && out.contains("warning: source `sqs` cannot be asked: GetQueueUrl of q:"), "{out}{err}");
    assert!(started.elapsed() < DEADLINE);
}
