//! Payloads in S3, in the format of Amazon's extended client libraries.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;

use super::around::FromQueue;
use super::queues::Queue;
use super::sinks::{pipeline, run_to_end, unique};
use super::sqs_members::{Member, Taker};
use crate::services::aws::{StandIn, python};
use crate::support::Folder;

/// A program with Amazon's extended client for Python in `sqs`, and what to do with it.
fn extended(program: &str) -> String {
    format!(
        "import os\n\
         os.environ['AWS_ENDPOINT_URL'] = client('sqs').meta.endpoint_url\n\
         import sqs_extended_client\n\
         sqs = boto3.client('sqs')\n\
         sqs.large_payload_support = sys.argv[2]\n\
         sqs.delete_payload_from_s3 = True\n\
         url = sqs.get_queue_url(QueueName=sys.argv[1])['QueueUrl']\n\
         {program}"
    )
}

fn bucket(stand_in: &StandIn) -> String {
    let bucket = unique("payloads");
    python(
        stand_in,
        "client('s3').create_bucket(Bucket=sys.argv[1], CreateBucketConfiguration={'LocationConstraint': 'eu-central-1'})",
        &[&bucket],
    );
    bucket
}

fn objects(stand_in: &StandIn, bucket: &str) -> usize {
    let count = "print(client('s3').list_objects_v2(Bucket=sys.argv[1]).get('KeyCount', 0))";
    python(stand_in, count, &[bucket]).trim().parse().expect("a number")
}

#[test]
fn what_the_extended_client_sends_is_read_and_removed_with_its_message() {
    for stand_in in [StandIn::fauxqs(), StandIn::moto()] {
        let bucket = bucket(stand_in);
        let keys = format!("[source.claim_check]\nbuckets = [\"{bucket}\"]\ndelete = true");
        let of = FromQueue::new(stand_in, &keys);
        let send = "for legacy in [False, True]:\n\
                    \x20   sqs.use_legacy_attribute = legacy\n\
                    \x20   sqs.send_message(QueueUrl=url, MessageBody='ä' * 150000, MessageAttributes={'kind': {'DataType': 'String', 'StringValue': 'large'}})\n\
                    sqs.send_message(QueueUrl=url, MessageBody='small')";
        python(stand_in, &extended(send), &[&of.queue.name, &bucket]);
        assert_eq!(objects(stand_in, &bucket), 2);
        let (records, letters) = of.run(3, 0);
        assert_eq!(letters, [json!(null); 0]);
        let mut bodies: Vec<&str> = records.iter().filter_map(|record| record["payload"].as_str()).collect();
        bodies.sort_unstable();
        let large = "ä".repeat(150_000);
        assert!(
            bodies == ["small", &large, &large],
            "{:?}",
            bodies.iter().map(|body| body.len()).collect::<Vec<_>>()
        );
        for record in records.iter().filter(|record| record["payload"] != "small") {
            assert_eq!(record["headers"]["kind"], "large");
            let headers = record["headers"].to_string();
            assert!(!headers.contains("PayloadSize"), "{headers}");
        }
        assert_eq!(objects(stand_in, &bucket), 0);
        assert_eq!(of.queue.drain(0).len(), 0);
    }
}

#[test]
fn p1_a_payload_stays_in_s3_until_its_message_is_settled() {
    let stand_in = StandIn::fauxqs();
    let (bucket, queue, folder) = (bucket(stand_in), Queue::standard(stand_in), Folder::new());
    let send = "sqs.send_message(QueueUrl=url, MessageBody='x' * 300000)";
    python(stand_in, &extended(send), &[&queue.name, &bucket]);
    let claim_check = format!("claim_check = {{ buckets = [\"{bucket}\"], delete = true }}");
    let never = Taker::new(|_, _| (StatusCode::OK, Duration::from_secs(600)));
    let pipeline = queue.pipeline(&folder, &claim_check, &never.sink("out"), "");
    let mut member = Member::start(&folder, &pipeline);
    member.wait_for("it is with the sink", || never.count() == 1);
    assert_eq!(never.came()[0].payload().len(), 300_000);
    assert_eq!(objects(stand_in, &bucket), 1, "it is in flight");
    member.stop();
    assert_eq!((objects(stand_in, &bucket), queue.counts()), (1, (1, 0)), "it was given back");

    let taker = Taker::of_all();
    let pipeline = queue.pipeline(&folder, &claim_check, &taker.sink("out"), "");
    let mut member = Member::start(&folder, &pipeline);
    member.wait_for("it is deleted", || queue.is_empty());
    member.stop();
    assert_eq!(taker.came()[0].payload().len(), 300_000);
    assert_eq!(objects(stand_in, &bucket), 0);
}

#[test]
fn what_we_send_the_extended_client_reads() {
    for stand_in in [StandIn::fauxqs(), StandIn::moto()] {
        let (bucket, queue, folder) = (bucket(stand_in), Queue::standard(stand_in), Folder::new());
        let large = "ö".repeat(450_000);
        let records: String = [large.as_str(), "small"]
            .iter()
            .map(|payload| json!({ "payload": payload, "headers": { "kind": "k" } }).to_string() + "\n")
            .collect();
        let sink = format!(
            "type = \"sqs\"\nqueue = \"{}\"\n{}\nclaim_check = {{ bucket = \"{bucket}\", prefix = \"in/\" }}",
            queue.name,
            stand_in.toml()
        );
        run_to_end(&folder, &pipeline(&folder, &records, &sink));
        let receive = "read = []\n\
                       while len(read) < 2:\n\
                       \x20   got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=['All']).get('Messages', [])\n\
                       \x20   for m in got: sqs.delete_message(QueueUrl=url, ReceiptHandle=m['ReceiptHandle'])\n\
                       \x20   read += [[len(m['Body']), m['Body'][:1], m['MessageAttributes']['kind']['StringValue'], len(m['MessageAttributes'])] for m in got]\n\
                       print(json.dumps(sorted(read)))";
        let keys = "print(client('s3').list_objects_v2(Bucket=sys.argv[1])['Contents'][0]['Key'])";
        assert!(python(stand_in, keys, &[&bucket]).starts_with("in/"));
        let read = python(stand_in, &extended(receive), &[&queue.name, &bucket]);
        assert_eq!(read.trim(), r#"[[5, "s", "k", 1], [450000, "\u00f6", "k", 1]]"#);
        assert_eq!(objects(stand_in, &bucket), 0);
    }
}

#[test]
fn p5_a_payload_that_cannot_be_had_is_a_dead_letter_that_says_so() {
    let stand_in = StandIn::fauxqs();
    let bucket = bucket(stand_in);
    let keys = format!("max_message_bytes = \"1KiB\"\n[source.claim_check]\nbuckets = [\"{bucket}\"]");
    let of = FromQueue::new(stand_in, &keys);
    let pointer = |bucket: &str, key: &str| {
        json!(["software.amazon.payloadoffloading.PayloadS3Pointer", { "s3BucketName": bucket, "s3Key": key }])
            .to_string()
    };
    let send = "for body in json.loads(sys.argv[2]):\n\
                \x20   client('sqs').send_message(QueueUrl=client('sqs').get_queue_url(QueueName=sys.argv[1])['QueueUrl'], MessageBody=body,\n\
                \x20       MessageAttributes={'ExtendedPayloadSize': {'DataType': 'Number', 'StringValue': '1'}})\n\
                client('s3').put_object(Bucket=sys.argv[3], Key='long', Body=b'x' * 2000)";
    let bodies = [
        pointer(&bucket, "gone"),
        pointer("others-bucket", "k"),
        pointer(&bucket, "long"),
        "no pointer".to_owned(),
    ];
    python(stand_in, send, &[&of.queue.name, &json!(bodies).to_string(), &bucket]);
    let (records, letters) = of.run(0, 4);
    assert_eq!(records.len(), 0);
    let reason = |part: &str| {
        let found =
            letters.iter().find(|letter| letter["reason"].as_str().is_some_and(|text| text.contains(part)));
        found.unwrap_or_else(|| panic!("no letter with {part:?}: {letters:?}"))
    };
    assert_eq!(reason("NoSuchKey")["code"], "claim-check");
    assert_eq!(reason("NoSuchKey")["payload"], bodies[0]);
    assert_eq!(reason("not among `buckets`")["code"], "claim-check");
    assert_eq!(reason("has 2000 bytes; at most 1024")["code"], "too-large");
    assert_eq!(reason("no pointer into S3")["code"], "claim-check");
    // Who replays it may need it.
    assert_eq!(objects(stand_in, &bucket), 1);
}

#[test]
fn what_we_publish_is_fetched_behind_a_topic_with_raw_delivery_and_without() {
    let stand_in = StandIn::fauxqs();
    let (bucket, raw, enveloped) = (bucket(stand_in), Queue::standard(stand_in), Queue::standard(stand_in));
    let setup = "sns = client('sns')\n\
                 arn = sns.create_topic(Name=sys.argv[1])['TopicArn']\n\
                 sns.subscribe(TopicArn=arn, Protocol='sqs', Endpoint=sys.argv[2], Attributes={'RawMessageDelivery': 'true'})\n\
                 sns.subscribe(TopicArn=arn, Protocol='sqs', Endpoint=sys.argv[3])\n\
                 print(arn)";
    let topic = python(stand_in, setup, &[&unique("topic"), &raw.arn(), &enveloped.arn()]);
    let folder = Folder::new();
    let large = "x".repeat(300_000);
    let records = json!({ "payload": large, "headers": { "kind": "k" } }).to_string() + "\n";
    let sink = format!(
        "type = \"sns\"\ntopic = \"{}\"\n{}\nclaim_check = {{ bucket = \"{bucket}\" }}",
        topic.trim(),
        stand_in.toml()
    );
    run_to_end(&folder, &pipeline(&folder, &records, &sink));
    for queue in [raw, enveloped] {
        let keys = format!("sns = {{}}\n[source.claim_check]\nbuckets = [\"{bucket}\"]");
        let (records, letters) = FromQueue::of(stand_in, queue, &keys).run(1, 0);
        assert_eq!(letters, [json!(null); 0]);
        assert!(
            records[0]["payload"] == large,
            "{} bytes",
            records[0]["payload"].as_str().map_or(0, str::len)
        );
        assert_eq!(records[0]["headers"]["kind"], "k");
    }
    // Another queue may still point to it.
    assert_eq!(objects(stand_in, &bucket), 1);
}
