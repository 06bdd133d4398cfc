//! P1: leases in the table are taken, kept and used only by who has them, whatever a member believes that
//! has heard nothing new of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::between::Between;
use super::world::{Member, Pipeline, Stream, Taker, Writer, leases};
use crate::services::aws::StandIn;

const LOST: &str = "a shard was lost";

/// A stream that members share, one of them behind something between it and the table.
struct Shared {
    stream: Arc<Stream>,
    taker: Taker,
    pipeline: Pipeline,
    between: Between,
    by_between: String,
    _runtime: Runtime,
}

impl Shared {
    fn new(shards: i32, duration: &str) -> Shared {
        let (stream, taker) = (Arc::new(Stream::new(shards)), Taker::start());
        let pipeline = Pipeline::shared(&stream, &taker, duration);
        let (between, aws, _runtime) = Between::start(StandIn::dynalite());
        let by_between = pipeline.sections.replace(&StandIn::dynalite().toml(), &aws);
        Shared { stream, taker, pipeline, between, by_between, _runtime }
    }

    fn write(&self) -> Writer {
        Writer::start(&self.stream, Duration::from_millis(20))
    }

    /// A member that hears what there is.
    fn member(&self) -> Member {
        Member::start(&self.pipeline)
    }

    /// The one that hears of the table what is between tells it.
    fn member_behind(&mut self) -> Member {
        let direct = std::mem::replace(&mut self.pipeline.sections, self.by_between.clone());
        let member = Member::start(&self.pipeline);
        self.pipeline.sections = direct;
        member
    }

    /// Waits until members have delivered everything, and stops them. Returns how many repetitions there were.
    fn end(&self, writer: Writer, mut members: Vec<Member>) -> usize {
        let written = writer.end();
        members[0].wait_for("everything that was written", || self.taker.distinct() >= written);
        let repeated = self.taker.judge(written);
        for member in members {
            member.stop();
        }
        repeated
    }
}

fn wait_for_leases(member: &mut Member, count: u64) {
    let admin = member.admin.clone();
    member.running.wait_for(&format!("{count} shards"), |_| leases(&admin) == count);
}

/// Two members. The first one hears nothing any more, so it does not renew its lease, and has nothing to commit
/// as long as nothing is taken; the second one has its shard.
fn lost_without_knowing() -> (Shared, Writer, Member, Member) {
    let mut shared = Shared::new(1, "1s");
    let mut one = shared.member_behind();
    let writer = shared.write();
    one.wait_for("some records", || shared.taker.count() > 100);
    shared.taker.open(false);
    shared.between.tell(|told| told.refused.insert("Scan"));
    let mut two = shared.member();
    wait_for_leases(&mut two, 1);
    (shared, writer, one, two)
}

#[test]
fn p1_who_has_lost_a_shard_and_does_not_know_it_commits_nothing_more_of_it() {
    let (shared, writer, mut one, two) = lost_without_knowing();
    // It can write, as soon as there is something to commit.
    shared.taker.open(true);
    one.wait_for_log(LOST);
    assert_eq!(leases(&two.admin), 1);
    shared.between.tell(|told| told.refused.clear());
    println!("{} repetitions", shared.end(writer, vec![two, one]));
}

#[test]
fn p1_who_has_lost_a_shard_and_does_not_know_it_does_not_renew_its_lease() {
    // There is nothing to commit either.
    let (shared, writer, mut one, two) = lost_without_knowing();
    // As the table was when it was the only one.
    shared.between.tell(|told| {
        told.refused.clear();
        told.frozen.insert("Scan");
    });
    one.wait_for_log(LOST);
    assert_eq!(leases(&two.admin), 1);
    shared.between.tell(|told| told.frozen.clear());
    shared.taker.open(true);
    println!("{} repetitions", shared.end(writer, vec![two, one]));
}

#[test]
fn p1_of_those_who_want_the_same_lease_one_gets_it() {
    let mut shared = Shared::new(2, "10m");
    let writer = shared.write();
    let mut first = shared.member();
    first.wait_for("some records", || shared.taker.count() > 100);
    first.stop();
    // All leases are free then, and that is all it ever hears.
    shared.between.tell(|told| {
        told.frozen.insert("Scan");
        told.refused.insert("UpdateItem");
    });
    let mut two = shared.member_behind();
    two.running.wait_for("it has looked", |_| shared.between.passed_on("Scan") > 0);
    let mut one = shared.member();
    wait_for_leases(&mut one, 2);
    shared.between.tell(|told| told.refused.clear());
    two.running.wait_for("it has tried to take them", |_| shared.between.passed_on("UpdateItem") >= 4);
    assert_eq!((leases(&two.admin), one.leases()), (0, 2));
    shared.between.tell(|told| told.frozen.clear());
    wait_for_leases(&mut two, 1);
    assert!(!one.running.log().contains(LOST), "{}", one.running.log());
    assert_eq!(shared.end(writer, vec![two, one]), 0, "repetitions");
}

#[test]
fn p1_a_lease_that_is_there_is_not_made_anew() {
    let mut shared = Shared::new(1, "2s");
    let writer = shared.write();
    let mut one = shared.member();
    one.wait_for("some records", || shared.taker.count() > 100);
    shared.between.tell(|told| told.answers.insert("Scan", r#"{"Count":0,"Items":[],"ScannedCount":0}"#));
    let mut two = shared.member_behind();
    two.running.wait_for("it has tried to make it", |_| shared.between.passed_on("PutItem") >= 2);
    let some = shared.taker.distinct() + 400;
    one.wait_for("some more records", || shared.taker.distinct() > some);
    two.stop();
    assert!(!one.running.log().contains(LOST), "{}", one.running.log());
    assert_eq!(shared.end(writer, vec![one]), 0, "repetitions");
}
