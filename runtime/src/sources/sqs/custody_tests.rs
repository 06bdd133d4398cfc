use super::*;
use crate::message::Position;

const VISIBILITY: Duration = Duration::from_secs(30);

fn custody(messages: usize) -> Custody {
    Custody::new(Limits { messages, prefetch: 40, bytes: 40 * MESSAGE_BYTES, visibility: VISIBILITY })
}

fn message(number: u64, group: &str, receives: u64) -> Arrived {
    let content = Content { payload: vec![0; 100], refused: None, key: None, headers: vec![], sent_at_ms: 0 };
    Arrived {
        number,
        id: format!("m{number}").into(),
        handle: format!("h{number}-{receives}").into(),
        group: (!group.is_empty()).then(|| group.into()),
        receives,
        content: Box::new(content),
    }
}

fn take(custody: &Custody, now: Instant) -> Vec<u64> {
    let limit = ReadLimit { rows: 100, bytes: 1 << 20 };
    custody.take(limit, now).into_iter().map(|taken| taken.number).collect()
}

fn settle(custody: &Custody, number: u64, outcome: SettledAs) {
    let position = Position { offset: number, ..Position::default() };
    custody.settle(&[SettledRow { position, outcome, failures: 0 }]);
}

fn handles(asks: &[Ask]) -> Vec<&str> {
    asks.iter().map(|ask| &*ask.handle).collect()
}

#[tokio::test]
async fn p3_a_group_is_handed_out_one_by_one_and_given_back_from_its_end() {
    let (custody, now) = (custody(100), Instant::now());
    custody.arrived(
        0,
        vec![message(1, "a", 1), message(2, "a", 1), message(3, "b", 1), message(4, "a", 1)],
        now,
    );
    assert_eq!(take(&custody, now), [1, 3]);
    settle(&custody, 3, SettledAs::Delivered);
    assert_eq!(take(&custody, now), [0; 0]);
    settle(&custody, 1, SettledAs::DeadLettered("x".into()));
    assert_eq!(take(&custody, now), [2]);
    custody.arrived(0, vec![message(5, "a", 1)], now);
    assert_eq!(take(&custody, now), [0; 0]);
    settle(&custody, 2, SettledAs::Returned);
    assert_eq!(handles(&custody.next_returns()), ["h5-1", "h4-1", "h2-1"]);
    assert_eq!(take(&custody, now), [0; 0]);
    // The group begins anew.
    custody.arrived(0, vec![message(2, "a", 2), message(4, "a", 2)], now);
    assert_eq!(take(&custody, now), [2]);
    let mut deletes = custody.next_deletes();
    deletes.sort_by_key(|ask| ask.number);
    assert_eq!(handles(&deletes), ["h1-1", "h3-1"]);
}

#[tokio::test]
async fn a_message_that_arrives_again_is_not_handed_out_again_and_the_newer_handle_counts() {
    let (custody, now) = (custody(100), Instant::now());
    custody.arrived(0, vec![message(1, "", 1)], now);
    assert_eq!(take(&custody, now), [1]);
    custody.arrived(0, vec![message(1, "", 3)], now);
    // Its answer was slow.
    custody.arrived(0, vec![message(1, "", 2)], now);
    assert_eq!(take(&custody, now), [0; 0]);
    settle(&custody, 1, SettledAs::Delivered);
    let deletes = custody.next_deletes();
    assert_eq!(handles(&deletes), ["h1-3"]);
    // It comes once more while it is being deleted, and after it is gone.
    custody.arrived(0, vec![message(1, "", 4)], now);
    assert!(custody.deletes_ended(&deletes, &[]).is_empty());
    let deletes = custody.next_deletes();
    assert_eq!(handles(&deletes), ["h1-4"]);
    assert_eq!(custody.deletes_ended(&deletes, &[]), [Gone { id: Arc::from("m1"), pointer: None }]);
    custody.arrived(0, vec![message(1, "", 5)], now);
    assert_eq!(take(&custody, now), [0; 0]);
    assert_eq!(handles(&custody.next_deletes()), ["h1-5"]);
}

#[tokio::test]
async fn what_is_not_hidden_any_more_is_not_handed_out() {
    let (custody, now) = (custody(100), Instant::now());
    custody.arrived(0, vec![message(1, "a", 1), message(2, "a", 1), message(3, "b", 1)], now);
    let later = now + VISIBILITY;
    assert_eq!(take(&custody, later), [0; 0]);
    // Nor given back: others may have it.
    assert!(custody.next_returns().is_empty());
    custody.idle().await;
    custody.arrived(0, vec![message(1, "a", 2)], later);
    assert_eq!(take(&custody, later), [1]);
}

#[tokio::test]
async fn everything_in_custody_is_extended_at_a_third_up_to_twelve_hours() {
    let (custody, start) = (custody(100), Instant::now());
    custody.arrived(0, vec![message(1, "a", 1), message(2, "a", 1), message(3, "b", 1)], start);
    assert_eq!(take(&custody, start), [1, 3]);
    settle(&custody, 3, SettledAs::Filtered);
    assert!(custody.due(start + VISIBILITY / 4).extend.is_empty());
    let mut now = start + VISIBILITY / 3;
    let mut extended = 0;
    loop {
        let due = custody.due(now);
        if !due.too_old.is_empty() {
            assert_eq!(due.too_old.len(), 3);
            break;
        }
        assert_eq!(due.extend.len(), 3, "waiting, in flight, and not yet deleted");
        for (ask, seconds) in due.extend {
            extended += 1;
            assert!(now + Duration::from_secs(u64::from(seconds)) <= start + Duration::from_secs(12 * 3600));
            assert_eq!(custody.extended(&ask, Some(Ok(now + VISIBILITY))), None);
        }
        now += VISIBILITY / 3;
    }
    assert!(extended > 3 * 4000, "{extended}");
    // It was let go, and the warning comes once.
    let due = custody.due(now + VISIBILITY);
    assert!(due.extend.is_empty() && due.too_old.is_empty());
}

#[tokio::test]
async fn nothing_is_given_back_while_it_is_being_extended() {
    let (custody, now) = (custody(100), Instant::now());
    custody.arrived(0, vec![message(1, "", 1)], now);
    assert_eq!(take(&custody, now), [1]);
    let due = custody.due(now + VISIBILITY / 3);
    settle(&custody, 1, SettledAs::Returned);
    assert!(custody.next_returns().is_empty());
    let [(ask, 30)] = &due.extend[..] else { panic!("{due:?}") };
    assert_eq!(custody.extended(ask, Some(Ok(now + VISIBILITY))), None);
    let returns = custody.next_returns();
    assert_eq!(handles(&returns), ["h1-1"]);
    custody.returns_ended(&returns, &[]);
    custody.idle().await;
    assert_eq!(custody.id(1), None);
}

#[tokio::test]
async fn a_stop_gives_back_what_waits_and_what_still_comes() {
    let (custody, now) = (custody(100), Instant::now());
    custody.arrived(
        0,
        vec![message(1, "a", 1), message(2, "a", 1), message(3, "a", 1), message(4, "b", 1)],
        now,
    );
    assert_eq!(custody.take(ReadLimit { rows: 1, bytes: 1 }, now)[0].number, 1);
    custody.stop();
    assert_eq!(take(&custody, now), [0; 0]);
    let mut returns = custody.next_returns();
    custody.returns_ended(&returns, &[]);
    returns.sort_by_key(|ask| ask.handle != "h4-1".into());
    assert_eq!(handles(&returns), ["h4-1", "h3-1", "h2-1"]);
    custody.arrived(0, vec![message(5, "c", 1), message(6, "c", 1)], now);
    assert_eq!(handles(&custody.next_returns()), ["h6-1", "h5-1"]);
    settle(&custody, 1, SettledAs::Delivered);
    assert_eq!(handles(&custody.next_deletes()), ["h1-1"]);
}

#[tokio::test]
async fn p6_no_more_is_asked_for_than_there_is_room() {
    let custody = custody(25);
    assert_eq!(custody.room(true).await, 10);
    let now = Instant::now();
    custody.arrived(10, (0..10).map(|number| message(number, "", 1)).collect(), now);
    assert_eq!(custody.room(false).await, 10);
    assert_eq!(custody.room(false).await, 5);
    let full = tokio::time::timeout(Duration::from_millis(20), custody.room(true)).await;
    assert!(full.is_err(), "{full:?}");
    custody.arrived(10, Vec::new(), now);
    custody.arrived(5, Vec::new(), now);
    // The queue is empty: one receiver asks.
    assert!(tokio::time::timeout(Duration::from_millis(20), custody.room(false)).await.is_err());
    assert_eq!(custody.room(true).await, 10);
}
