use super::*;

const ROOM: Allowed = Allowed { ttl_ms: None, size: ByteSize::mib(1) };
const NOW: i64 = 1_000;

struct Calls<'s> {
    states: &'s States,
    calling: Calling,
    call: u64,
}

impl Calls<'_> {
    fn of(states: &States) -> Calls<'_> {
        Calls { states, calling: Calling::default(), call: states.next_call() }
    }

    /// As the message `number`, whose position is its number.
    fn writer(&self, number: u32, row: u32) -> Writer {
        Writer {
            ticket: Ticket { claim: 1, row: number },
            owner: Owner { partition: 0, offset: u64::from(number), epoch: 0 },
            step: "step".into(),
            call: self.call,
            row,
        }
    }

    fn insert(&mut self, number: u32, key: &str) -> Inserted {
        let writer = self.writer(number, number);
        self.insert_as(writer, key)
    }

    fn insert_as(&mut self, writer: Writer, key: &str) -> Inserted {
        let entry = Entry { key: key.as_bytes(), value: Some(b""), ttl_ms: 0 };
        let entries = [(writer, entry)];
        let inserted = self.states.insert_if_absent(&mut self.calling, "space", &entries, ROOM, NOW);
        inserted.unwrap().remove(0)
    }

    fn put(&mut self, number: u32, key: &str, value: Option<&str>, ttl_ms: u64) {
        let entry = Entry { key: key.as_bytes(), value: value.map(str::as_bytes), ttl_ms };
        let entries = [(self.writer(number, number), entry)];
        self.states.put(&mut self.calling, "space", &entries, ROOM, NOW).unwrap();
    }
}

impl States {
    fn value(&self, key: &str, now_ms: i64) -> Option<String> {
        let found = self.get("space", [key.as_bytes()].into_iter(), now_ms).unwrap().remove(0);
        found.map(|value| String::from_utf8(value).unwrap())
    }

    fn done(&self, number: u32) {
        self.settle(Ticket { claim: 1, row: number }, Ending::Done);
    }
}

fn on_disk() -> (tempfile::TempDir, Arc<States>) {
    let folder = tempfile::tempdir().unwrap();
    let states = reopened(&folder);
    (folder, states)
}

fn reopened(folder: &tempfile::TempDir) -> Arc<States> {
    let data = DataFolder::open(folder.path(), "p").unwrap();
    let states = States::of(&data);
    states.open(["space"].into_iter()).unwrap();
    states
}

fn yes(inserted: &Inserted) -> bool {
    matches!(inserted, Inserted::Yes)
}

#[test]
fn p1_what_is_final_survives_the_process_and_what_is_pending_does_not() {
    let (folder, states) = on_disk();
    let mut calls = Calls::of(&states);
    assert!(yes(&calls.insert(1, "a")) && yes(&calls.insert(2, "b")));
    states.done(1);
    assert!(states.is_dirty());
    states.flush().unwrap();
    assert!(!states.is_dirty());
    drop(states);
    let states = reopened(&folder);
    let mut calls = Calls::of(&states);
    assert!(matches!(calls.insert(3, "a"), Inserted::No));
    assert!(yes(&calls.insert(3, "b")), "the message 2 never ended");
    assert!(yes(&calls.insert(1, "a")), "the same source position is always admitted again");
}

#[test]
fn p2_a_message_that_is_given_up_or_back_leaves_nothing() {
    for ending in [Ending::DeadLettered, Ending::Returned] {
        let states = States::in_memory();
        let mut calls = Calls::of(&states);
        assert!(yes(&calls.insert(1, "a")));
        assert!(matches!(calls.insert(2, "a"), Inserted::NotYet(_)));
        states.settle(Ticket { claim: 1, row: 1 }, ending);
        assert!(yes(&calls.insert(2, "a")), "{ending:?}");
        states.done(2);
        assert!(matches!(calls.insert(3, "a"), Inserted::No));
    }
}

#[test]
fn p2_a_call_that_fails_takes_back_what_it_wrote() {
    let states = States::in_memory();
    let mut failed = Calls::of(&states);
    failed.put(1, "a", Some("of the first"), 0);
    let mut good = Calls::of(&states);
    good.put(2, "a", Some("of the second"), 0);
    failed.put(1, "a", None, 0);
    assert_eq!(states.value("a", NOW), None);
    let mut rows = failed.calling.rows();
    assert_eq!((rows.next(), failed.calling.is_empty()), (Some(1), false));
    drop(rows);
    failed.calling.undo(&states, |row| row == 1);
    assert_eq!((states.value("a", NOW).as_deref(), failed.calling.bytes()), (Some("of the second"), 0));
}

#[tokio::test]
async fn a_message_dropped_because_of_another_hears_how_that_one_ended() {
    let states = States::in_memory();
    let mut calls = Calls::of(&states);
    calls.insert(1, "a");
    let Inserted::NotYet(pending) = calls.insert(2, "a") else { panic!("1 is in flight") };
    assert!(states.follows(Ticket { claim: 1, row: 2 }, &pending));
    let waiting = tokio::spawn(pending.ended());
    // Even if the call of the first is taken back, and made again: it is the message that counts.
    calls.calling.undo(&states, |_| true);
    states.settle(Ticket { claim: 1, row: 1 }, Ending::DeadLettered);
    assert_eq!(waiting.await.unwrap(), Some(Ending::DeadLettered));
}

#[test]
fn two_messages_are_not_dropped_because_of_each_other() {
    let states = States::in_memory();
    let mut calls = Calls::of(&states);
    calls.insert(1, "a");
    calls.insert(2, "b");
    let Inserted::NotYet(of_1) = calls.insert(2, "a") else { panic!("1 is in flight") };
    let Inserted::NotYet(of_2) = calls.insert(1, "b") else { panic!("2 is in flight") };
    assert!(states.follows(Ticket { claim: 1, row: 2 }, &of_1));
    assert!(!states.follows(Ticket { claim: 1, row: 1 }, &of_2));
}

#[test]
fn parts_of_one_message_are_duplicates_of_each_other_but_not_of_themselves() {
    let states = States::in_memory();
    let mut calls = Calls::of(&states);
    let (first, second) = (calls.writer(1, 0), calls.writer(1, 1));
    assert!(yes(&calls.insert_as(first.clone(), "item")));
    assert!(matches!(calls.insert_as(second, "item"), Inserted::No));
    assert!(yes(&calls.insert_as(first.clone(), "item")));
    let elsewhere = Writer { step: "another".into(), ..first };
    assert!(yes(&calls.insert_as(elsewhere, "item")), "another plugin sees the same message");
}

#[test]
fn the_same_position_read_at_another_time_is_another_message_where_positions_begin_anew() {
    let (folder, states) = on_disk();
    let mut calls = Calls::of(&states);
    let mut writer = calls.writer(1, 1);
    writer.owner.epoch = 7;
    assert!(yes(&calls.insert_as(writer.clone(), "a")));
    states.done(1);
    states.flush().unwrap();
    drop(states);
    let states = reopened(&folder);
    let mut calls = Calls::of(&states);
    let later = Writer { owner: Owner { epoch: 8, ..writer.owner }, ..writer.clone() };
    assert!(matches!(calls.insert_as(later, "a"), Inserted::No));
    assert!(yes(&calls.insert_as(writer, "a")), "a replay keeps when it was read first");
}

#[test]
fn the_newest_value_counts_whatever_is_settled_first() {
    let (folder, states) = on_disk();
    let mut calls = Calls::of(&states);
    calls.put(1, "a", Some("old"), 0);
    calls.put(2, "a", Some("new"), 0);
    for number in [2, 1] {
        states.done(number);
        states.flush().unwrap();
        assert_eq!(states.value("a", NOW).as_deref(), Some("new"), "after {number}");
    }
    assert!(states.overlay().newest("space", b"a").is_none(), "all of it is on the disk");
    calls.put(4, "b", Some("old"), 0);
    calls.put(5, "b", Some("new"), 0);
    states.done(5);
    states.flush().unwrap();
    states.settle(Ticket { claim: 1, row: 4 }, Ending::Returned);
    assert!(states.overlay().newest("space", b"b").is_none());
    assert_eq!(states.value("b", NOW).as_deref(), Some("new"));
    calls.put(3, "a", None, 0);
    assert_eq!(states.value("a", NOW), None);
    states.done(3);
    states.flush().unwrap();
    drop(states);
    assert_eq!(reopened(&folder).value("a", NOW), None);
}

#[test]
fn an_entry_is_kept_for_its_time_and_at_most_for_that_of_the_grant() {
    let (_folder, states) = on_disk();
    let mut calls = Calls::of(&states);
    calls.put(1, "short", Some("x"), 10);
    let capped = Allowed { ttl_ms: Some(20), ..ROOM };
    let entry = Entry { key: b"capped", value: Some(b"x"), ttl_ms: 1_000_000 };
    let writer = calls.writer(1, 1);
    states.put(&mut calls.calling, "space", &[(writer, entry)], capped, NOW).unwrap();
    for settled in [false, true] {
        if settled {
            states.done(1);
            states.flush().unwrap();
        }
        // What has expired is gone from the disk by now, for its time is long ago.
        assert_eq!(states.value("short", NOW + 9).is_some(), !settled);
        assert_eq!(states.value("short", NOW + 10), None);
        assert_eq!(states.value("capped", NOW + 20), None);
    }
}

#[test]
fn p6_a_space_holds_so_much_and_what_has_expired_makes_room() {
    let (_folder, states) = on_disk();
    let small = Allowed { ttl_ms: None, size: ByteSize(100) };
    let far = jiff::Timestamp::now().as_millisecond() + 3_600_000;
    let mut calls = Calls::of(&states);
    let mut put = |states: &States, key: &str, now_ms: i64| {
        let entry = Entry { key: key.as_bytes(), value: Some(&[b'v'; 40]), ttl_ms: 5_000 };
        let entries = [(calls.writer(1, 1), entry)];
        states.put(&mut calls.calling, "space", &entries, small, now_ms)
    };
    put(&states, "one", far).unwrap();
    put(&states, "two", far).unwrap();
    let error = put(&states, "three", far).unwrap_err();
    assert!(error.to_string().contains("\"space\" holds all of its 100B; raise `size`"), "{error}");
    states.done(1);
    states.flush().unwrap();
    assert!(put(&states, "three", far + 4_999).is_err());
    put(&states, "three", far + 5_000).unwrap();
    assert_eq!(states.value("three", far + 5_000).map(|value| value.len()), Some(40));
}
