use super::super::testing::letter;
use super::*;

const DAY_MS: i64 = 24 * 3600 * 1000;

fn store() -> (tempfile::TempDir, DeadLetterStore) {
    let folder = tempfile::tempdir().unwrap();
    let data = DataFolder::open(folder.path(), "orders").unwrap();
    (folder, DeadLetterStore::new(&data, Duration::from_secs(14 * 24 * 3600)))
}

fn all(store: &DeadLetterStore, filter: &Filter) -> Vec<DeadLetter> {
    let end = store.end().unwrap();
    let (mut letters, mut after) = (Vec::new(), 0);
    loop {
        let page = store.page(filter, after, end).unwrap();
        letters.extend(page.letters);
        match page.next {
            Some(next) => after = next,
            None => return letters,
        }
    }
}

fn ids(store: &DeadLetterStore, filter: &Filter) -> Vec<u64> {
    all(store, filter).iter().map(|letter| u64::from_str_radix(&letter.id, 16).unwrap()).collect()
}

#[test]
fn p5_every_field_comes_back_as_it_was() {
    let (_folder, store) = store();
    let full = letter(u64::MAX);
    let bare = DeadLetter {
        stage: Stage::Source,
        plugin: None,
        trap: None,
        trace_id: None,
        sinks: Vec::new(),
        message: Message { timestamp_ms: i64::MIN, ..Message::default() },
        ..letter(1)
    };
    let empty = DeadLetter {
        stage: Stage::Sink("a:b".to_owned()),
        message: Message { payload: Some(Vec::new()), key: Some(Vec::new()), ..Message::default() },
        ..letter(2)
    };
    store.insert(&[full.clone(), bare.clone(), empty.clone()]).unwrap();
    assert_eq!(all(&store, &Filter::default()), [full, bare, empty]);
}

#[test]
fn p2_the_same_failure_read_again_makes_no_second_dead_letter() {
    let (_folder, store) = store();
    store.insert(&[DeadLetter { replays: 2, ..letter(1) }, letter(2)]).unwrap();
    let again = DeadLetter { attempts: 7, failed_at_ms: 9_000, ..letter(1) };
    store.insert(std::slice::from_ref(&again)).unwrap();
    assert_eq!(all(&store, &Filter::default()), [DeadLetter { replays: 2, ..again }, letter(2)]);
    assert_eq!(store.depth().unwrap(), 2);
}

#[test]
fn a_batch_is_written_whole_or_not() {
    let (_folder, store) = store();
    store.database.write(|t| t.execute_batch("CREATE TRIGGER t BEFORE INSERT ON dead_letters WHEN NEW.attempts = 99 BEGIN SELECT raise(ABORT, 'no'); END")).unwrap();
    assert!(store.insert(&[letter(1), DeadLetter { attempts: 99, ..letter(2) }]).is_err());
    assert_eq!(store.depth().unwrap(), 0);
}

#[test]
fn filters_mean_what_they_say() {
    let (_folder, store) = store();
    let at = |n, stage: Stage, code: &str| DeadLetter {
        plugin: letter(1).plugin.filter(|_| matches!(stage, Stage::Plugin(_))),
        stage,
        code: code.to_owned(),
        ..letter(n)
    };
    store
        .insert(&[
            at(1, Stage::Source, "decode-error"),
            at(2, Stage::Plugin("jq-2".to_owned()), "trap"),
            at(3, Stage::Sink("out".to_owned()), "http-400"),
            at(4, Stage::Route, "unrouted"),
            DeadLetter {
                source: "other".to_owned(),
                reason: "Nothing *".to_owned(),
                ..at(5, Stage::Sink("*".to_owned()), "x")
            },
        ])
        .unwrap();
    let none = Filter::default;
    let some = |text: &str| Some(text.to_owned());
    for (filter, expected) in [
        (none(), vec![1, 2, 3, 4, 5]),
        (Filter { ids: vec![letter(4).id, letter(2).id, "no".to_owned()], ..none() }, vec![2, 4]),
        (Filter { stage: some("source"), ..none() }, vec![1]),
        (Filter { stage: some("plugin"), ..none() }, vec![2]),
        (Filter { stage: some("sink"), ..none() }, vec![3, 5]),
        (Filter { stage: some("sink:out"), ..none() }, vec![3]),
        (Filter { stage: some("sink:*"), ..none() }, vec![5]),
        (Filter { plugin: some("jq"), ..none() }, vec![2]),
        (Filter { plugin: some("jq-2"), ..none() }, vec![2]),
        (Filter { plugin: some(&"ab".repeat(32)), ..none() }, vec![2]),
        (Filter { plugin: some("j"), ..none() }, vec![]),
        (Filter { reason: some("CANNOT index"), ..none() }, vec![1, 2, 3, 4]),
        (Filter { reason: some("http-400"), ..none() }, vec![3]),
        (Filter { reason: some("*"), ..none() }, vec![5]),
        (Filter { since_ms: Some(2_003), ..none() }, vec![3, 4, 5]),
        (Filter { since_ms: Some(2_002), until_ms: Some(2_004), ..none() }, vec![2, 3]),
        (Filter { source: some("other"), ..none() }, vec![5]),
        (Filter { stage: some("sink"), reason: some("nothing"), ..none() }, vec![5]),
    ] {
        assert_eq!(ids(&store, &filter), expected, "{filter:?}");
        assert_eq!(store.count(&filter).unwrap(), expected.len() as u64, "{filter:?}");
    }
    assert_eq!(store.sources(&none(), store.end().unwrap()).unwrap(), ["file:orders", "other"]);
}

#[test]
fn p6_pages_are_bounded_in_rows_and_bytes() {
    let (_folder, mut store) = store();
    let letters: Vec<DeadLetter> = (1..=600).map(letter).collect();
    store.insert(&letters).unwrap();
    let end = store.end().unwrap();
    let first = store.page(&Filter::default(), 0, end).unwrap();
    assert_eq!(first.letters.len(), PAGE_ROWS);
    assert!(all(&store, &Filter::default()) == letters);

    store.page_bytes = 300;
    let first = store.page(&Filter::default(), 0, end).unwrap();
    assert!((2..9).contains(&first.letters.len()), "{}", first.letters.len());
    assert!(all(&store, &Filter::default()) == letters);

    let few = store.page(&Filter::default(), first.next.unwrap(), first.next.unwrap() + 2).unwrap();
    assert_eq!(few.letters.len(), 2);
    assert_eq!(few.next, None);
}

#[test]
fn what_is_older_than_the_retention_is_purged() {
    let (_folder, store) = store();
    let old = |n, failed_at_ms| DeadLetter { failed_at_ms, ..letter(n) };
    let now = 100 * DAY_MS;
    store.insert(&[old(1, now - 14 * DAY_MS - 1), old(2, now - 14 * DAY_MS), old(3, now)]).unwrap();
    assert_eq!(store.purge_expired(now).unwrap(), 1);
    assert_eq!(ids(&store, &Filter::default()), [2, 3]);
}

#[test]
fn a_purge_of_many_takes_those_it_means_and_gives_the_disk_back() {
    let (folder, store) = store();
    let large = |n| DeadLetter {
        message: Message { payload: Some(vec![b'x'; 2_000]), ..Message::default() },
        stage: if n % 10 == 0 { Stage::Route } else { Stage::Source },
        ..letter(n)
    };
    store.insert(&(1..=2_000).map(large).collect::<Vec<_>>()).unwrap();
    let size = || {
        store.database.read(|c| c.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0))).unwrap()
    };
    let before = size();
    let filter = Filter { stage: Some("source".to_owned()), ..Filter::default() };
    assert_eq!(store.purge(&filter).unwrap(), 1_800);
    assert_eq!(store.depth().unwrap(), 200);
    assert!(size() < before / 4, "{before} pages, then {}, in {}", size(), folder.path().display());
}

#[test]
fn a_replayed_one_goes_unless_it_failed_the_same_way_again() {
    let (_folder, store) = store();
    store.insert(&[letter(1), letter(2), DeadLetter { replays: 1, ..letter(3) }]).unwrap();
    // Number 2 was replayed and failed again as before.
    store.insert(&[DeadLetter { replays: 1, ..letter(2) }]).unwrap();
    store.settle_replayed(&[(letter(1).id, 0), (letter(2).id, 0), (letter(3).id, 1)]).unwrap();
    assert_eq!(ids(&store, &Filter::default()), [2]);
}

/// Remembers what it is to mark; fails once if it is told to.
#[derive(Default)]
struct Marked {
    settled: std::sync::Mutex<Vec<(String, u32)>>,
    fails: std::sync::atomic::AtomicBool,
}

impl Original for Marked {
    fn settle(&self, settled: Vec<Settled>) -> anyhow::Result<()> {
        anyhow::ensure!(!self.fails.swap(false, std::sync::atomic::Ordering::SeqCst), "not now");
        self.settled.lock().unwrap().extend(settled.into_iter().map(|one| (one.id, one.replays)));
        Ok(())
    }
}

#[test]
fn p2_what_goes_from_a_copy_is_marked_before_where_it_comes_from() {
    let (_folder, store) = store();
    let again = DeadLetter { replays: 2, failed_at_ms: 2_500, ..letter(2) };
    store.insert(&[letter(4), letter(3), again, letter(1)]).unwrap();
    let settled = |n: u64, replays| Settled {
        id: letter(n).id,
        key: None,
        replays,
        failed_at_ms: letter(n).failed_at_ms,
    };
    let marked = Arc::new(Marked::default());
    // The mark of 2 is for an earlier failure of the same message.
    let copy = store.as_copy(&[settled(1, 0), settled(2, 1), settled(9, 0)], marked.clone()).unwrap();
    assert_eq!(ids(&copy, &Filter::default()), [3, 4, 2]);

    marked.fails.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(copy.settle_replayed(&[(letter(3).id, 0)]).is_err());
    assert_eq!(ids(&copy, &Filter::default()), [3, 4, 2]);
    copy.settle_replayed(&[(letter(3).id, 0)]).unwrap();
    copy.settle_replayed(&[]).unwrap();
    copy.purge(&Filter::of_id(&letter(2).id)).unwrap();
    assert_eq!(ids(&copy, &Filter::default()), [4]);
    assert_eq!(*marked.settled.lock().unwrap(), [(letter(3).id, 0), (letter(2).id, 2)]);
}
