//! Several members that share a stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::world::{Member, Pipeline, Stopped, Stream, Taker, Writer, leases};
use crate::services::aws::{StandIn, python};
use crate::support::{rounds, run, seed};

const SHARDS: i32 = 4;

#[test]
fn p1_p3_members_that_are_killed_lose_nothing_and_keep_the_order_of_each_key() {
    let mut random = StdRng::seed_from_u64(seed());
    let rounds = rounds("kills of one of three members", 4, 20);
    let (stream, taker) = (Arc::new(Stream::new(SHARDS)), Taker::start());
    let pipeline = Pipeline::shared(&stream, &taker, "2s");
    let mut members: Vec<Option<Member>> = (0..3).map(|_| Some(Member::start(&pipeline))).collect();
    let writer = Writer::start(&stream, Duration::from_millis(20));
    for round in 0..rounds {
        let enough = taker.distinct() + random.random_range(100..600);
        let number = random.random_range(0..members.len());
        let mut member = members[number].take().expect("it runs");
        member.wait_for("some more records", || taker.distinct() >= enough);
        println!("round {round}: member {number} of {} shards is killed", member.leases());
        let killed: Stopped = member.kill();
        // Before its leases expire, and after that.
        std::thread::sleep(Duration::from_millis(random.random_range(0..5000)));
        members[number] = Some(killed.start());
    }
    let written = writer.end();
    let mut members: Vec<Member> = members.into_iter().flatten().collect();
    members[0].wait_for("everything that was written", || taker.distinct() >= written);
    let logs = || members.iter().map(|member| member.running.log()).collect::<Vec<_>>().join("\n---\n");
    let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| taker.judge(written)));
    let repeated = judged.unwrap_or_else(|_| panic!("see above\n{}", logs()));
    println!("{written} records, {repeated} repetitions");
    for member in members {
        member.stop();
    }
}

#[test]
fn p8_shards_are_handed_over_at_a_start_and_at_a_stop_and_nothing_comes_twice() {
    let (stream, taker) = (Arc::new(Stream::new(SHARDS)), Taker::start());
    // So long nobody waits in this test.
    let pipeline = Pipeline::shared(&stream, &taker, "10m");
    let mut one = Member::start(&pipeline);
    let writer = Writer::start(&stream, Duration::from_millis(20));
    one.wait_for("some records", || taker.count() > 200);
    assert_eq!(one.leases(), 4);
    let mut two = Member::start(&pipeline);
    two.running.wait_for("half of the shards", |_| one.leases() == 2);
    two.running.wait_for("the other half", |_| leases(&two.admin) == 2);
    let some = taker.count() + 200;
    one.wait_for("records by both", || taker.count() > some);
    let stopped_at = Instant::now();
    one.stop();
    println!("a member stopped within {:?}", stopped_at.elapsed());
    two.running.wait_for("all shards", |_| leases(&two.admin) == 4);
    println!("its shards were taken within {:?}", stopped_at.elapsed());
    assert!(stopped_at.elapsed() < Duration::from_secs(60), "no lease had to expire");
    let written = writer.end();
    two.wait_for("everything that was written", || taker.distinct() >= written);
    assert_eq!(taker.judge(written), 0, "repetitions\n{}", two.running.log());
    let stopped = two.stop();
    let path = stopped.pipeline.to_str().expect("UTF-8");
    let (status, _, told) = run(&["checkpoint", "show", path]);
    assert!(status.success() && told.contains("the table leases-"), "{told}");
    let (status, _, told) = run(&["checkpoint", "reset", path, "--yes"]);
    assert!(!status.success() && told.contains("the table leases-"), "{told}");
}

#[test]
fn p1_a_member_that_was_away_commits_nothing_more() {
    let (stream, taker) = (Arc::new(Stream::new(2)), Taker::start());
    let pipeline = Pipeline::shared(&stream, &taker, "1s");
    let mut one = Member::start(&pipeline);
    let writer = Writer::start(&stream, Duration::from_millis(20));
    one.wait_for("some records", || taker.count() > 100);
    one.running.pause();
    let mut two = Member::start(&pipeline);
    two.running.wait_for("the shards of who is away", |_| leases(&two.admin) == 2);
    let some = taker.distinct() + 200;
    two.wait_for("some more records", || taker.distinct() > some);
    one.running.resume();
    one.wait_for_log("a shard was lost");
    one.running.wait_for("its share again", |_| leases(&one.admin) == 1);
    let written = writer.end();
    two.wait_for("everything that was written", || taker.distinct() >= written);
    println!("{written} records, {} repetitions", taker.judge(written));
    one.stop();
    two.stop();
}

#[test]
fn p3_what_does_not_drain_in_time_is_delivered_by_both_in_order() {
    let (stream, taker) = (Arc::new(Stream::new(2)), Taker::start());
    let mut pipeline = Pipeline::shared(&stream, &taker, "10m");
    pipeline.sections.push_str("drain_timeout = \"1s\"\n");
    let mut one = Member::start(&pipeline);
    let writer = Writer::start(&stream, Duration::from_millis(20));
    one.wait_for("some records", || taker.count() > 200);
    taker.open(false);
    let mut two = Member::start(&pipeline);
    one.wait_for_log("a shard did not drain in time");
    two.running.wait_for("a shard", |_| leases(&two.admin) == 1);
    taker.open(true);
    let written = writer.end();
    two.wait_for("everything that was written", || taker.distinct() >= written);
    one.running.wait_for("everything by the other one", |_| taker.distinct() >= written);
    assert!(taker.judge(written) > 0, "nobody can know what was delivered");
    one.stop();
    two.stop();
}

#[test]
fn p2_a_table_of_the_client_library_is_taken_over() {
    let (stream, taker) = (Stream::new(1), Taker::start());
    let pipeline = Pipeline::shared(&stream, &taker, "2s");
    let table = pipeline.sections.split('"').nth(1).expect("the name of the table").to_owned();
    let put = "
kinesis = client('kinesis')
for number in range(4):
    put = kinesis.put_record(StreamName=sys.argv[1], PartitionKey='k', Data=b'%d' % number)
    if number == 1:
        print(put['SequenceNumber'], put['ShardId'])
";
    let printed = python(StandIn::kinesis(), put, &[&stream.name]);
    let (sequence_number, shard) = printed.trim().split_once(' ').expect("two words");
    let lease = "
dynamodb = client('dynamodb')
dynamodb.create_table(TableName=sys.argv[1], BillingMode='PAY_PER_REQUEST',
    KeySchema=[{'AttributeName': 'leaseKey', 'KeyType': 'HASH'}],
    AttributeDefinitions=[{'AttributeName': 'leaseKey', 'AttributeType': 'S'}])
dynamodb.get_waiter('table_exists').wait(TableName=sys.argv[1], WaiterConfig={'Delay': 1})
dynamodb.put_item(TableName=sys.argv[1], Item={'leaseKey': {'S': sys.argv[3]}, 'leaseOwner': {'S': 'worker'},
    'leaseCounter': {'N': '42'}, 'checkpoint': {'S': sys.argv[2]}, 'checkpointSubSequenceNumber': {'N': '0'},
    'ownerSwitchesSinceCheckpoint': {'N': '0'}, 'startingHashKey': {'S': '0'}})
";
    python(StandIn::dynalite(), lease, &[&table, sequence_number, shard]);
    let mut member = Member::start(&pipeline);
    member.wait_for("the rest", || taker.count() >= 2);
    member.stop();
    assert_eq!(taker.texts(), ["2", "3"]);
    let read = "
for item in client('dynamodb').scan(TableName=sys.argv[1])['Items']:
    print(item['checkpoint']['S'] > sys.argv[2], 'leaseOwner' in item, item['startingHashKey']['S'])
";
    let printed = python(StandIn::dynalite(), read, &[&table, sequence_number]);
    assert_eq!(printed.trim(), "True False 0", "further, given up, and what is not ours is as it was");
}
