use std::time::Duration;

use super::super::testing::letter;
use super::*;
use crate::codecs::{DecodeError, Framing};
use crate::message::MessageRef;
use crate::store::DataFolder;

const LIMIT: ReadLimit = ReadLimit { rows: 100, bytes: 1 << 20 };

/// Messages between commas; `bad` is none.
struct Commas {
    has_head: bool,
}

impl DecoderConfig for Commas {
    fn framing(&self) -> Framing {
        Framing::Lines
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(Commas { has_head: self.has_head })
    }
}

impl Decoder for Commas {
    fn has_head(&self) -> bool {
        self.has_head
    }

    fn decode(
        &mut self,
        bytes: &[u8],
        _frame: Span,
        meta: &FrameMeta<'_>,
        out: &mut BatchBuilder,
    ) -> Result<(), DecodeError> {
        if bytes == b"bad" {
            return Err(DecodeError("still bad".to_owned()));
        }
        for part in bytes.split(|byte| *byte == b',').filter(|part| !part.is_empty()) {
            let payload = out.copy(part);
            out.push(payload, meta.key, &[], meta.timestamp_ms, meta.position);
        }
        Ok(())
    }
}

fn context() -> ReplayContext {
    ReplayContext { sinks: vec!["a".to_owned(), "b".to_owned()], codec: Arc::new(Commas { has_head: false }) }
}

fn store(letters: &[DeadLetter]) -> (tempfile::TempDir, DeadLetterStore) {
    let folder = tempfile::tempdir().unwrap();
    let data = DataFolder::open(folder.path(), "orders").unwrap();
    let store = DeadLetterStore::new(&data, Duration::from_secs(3600));
    store.insert(letters).unwrap();
    (folder, store)
}

fn stored(store: &DeadLetterStore) -> Vec<DeadLetter> {
    store.page(&Filter::default(), 0, store.end().unwrap()).unwrap().letters
}

fn source_frame(n: u64, frame: &str) -> DeadLetter {
    let mut letter = DeadLetter { stage: Stage::Source, code: "decode-error".to_owned(), ..letter(n) };
    letter.message.payload = Some(frame.as_bytes().to_vec());
    letter
}

/// Reads a source to its end and settles each message as `settle` says; `None` leaves it open, and then
/// the pipeline is stopped.
async fn run(
    source: OpenSource,
    mut settle: impl FnMut(MessageRef<'_>, &[RejectedRow]) -> Option<SettledAs>,
) -> anyhow::Result<()> {
    let OpenSource { mut reader, mut committer, .. } = source;
    assert_eq!(committer.kind(), CommitKind::Each);
    let mut has_open = false;
    loop {
        let read = match has_open {
            true => match tokio::time::timeout(Duration::from_millis(10), reader.read(LIMIT)).await {
                Ok(read) => read?,
                Err(_) => break,
            },
            false => reader.read(LIMIT).await?,
        };
        let Read::Batch(ReadBatch { mut batch, rejected, replays }) = read else { break };
        // As the ledger does it.
        mark(&mut batch, &replays);
        let rows = batch.messages().filter_map(|message| {
            settle(message, &rejected).map(|outcome| SettledRow {
                position: message.position(),
                outcome,
                failures: 0,
            })
        });
        let rows: Vec<SettledRow> = rows.collect();
        has_open |= rows.len() < batch.len();
        committer.each(rows).await?;
    }
    committer.close().await
}

async fn replay_all(
    store: &DeadLetterStore,
    force: bool,
    settle: impl FnMut(MessageRef<'_>, &[RejectedRow]) -> Option<SettledAs>,
) -> Summary {
    let settle = &Mutex::new(settle);
    replay(store, &context(), &Filter::default(), force, |source| {
        run(source, move |message, rejected| (settle.lock().unwrap())(message, rejected))
    })
    .await
    .unwrap()
}

fn mark_of(message: MessageRef<'_>) -> String {
    let is_mark = |(name, _): &(&[u8], &[u8])| *name == REPLAYS_HEADER.as_bytes();
    let marks: Vec<&[u8]> = message.headers().filter(is_mark).map(|(_, value)| value).collect();
    assert_eq!(marks.len(), 1, "{marks:?}");
    str::from_utf8(marks[0]).unwrap().to_owned()
}

fn header_of_replays(n: u32) -> (Vec<u8>, Vec<u8>) {
    (REPLAYS_HEADER.as_bytes().to_vec(), n.to_string().into_bytes())
}

#[tokio::test]
async fn p5_the_original_comes_again_with_its_position_for_the_sinks_that_lack_it() {
    let mut second = DeadLetter { replays: 1, sinks: Vec::new(), ..letter(2) };
    second.message.headers.insert(0, header_of_replays(1));
    let (_folder, store) = store(&[letter(1), second]);
    let mut seen = Vec::new();
    let summary = replay_all(&store, false, |message, rejected| {
        assert!(rejected.is_empty());
        seen.push((message.to_owned(), message.position(), message.row().sinks, mark_of(message)));
        Some(SettledAs::Delivered)
    })
    .await;
    let mut original = letter(1).message;
    original.headers.push(header_of_replays(1));
    assert_eq!(seen[0], (original, letter(1).position, SinkSet::only(0), "1".to_owned()));
    assert_eq!((seen[1].2, seen[1].3.as_str()), (SinkSet::ALL, "2"));
    assert_eq!(seen.len(), 2);
    assert_eq!(summary, Summary { delivered: 2, ..Summary::default() });
    assert_eq!(stored(&store), []);
}

#[tokio::test]
async fn p5_what_is_read_again_is_as_it_was_and_how_often_it_was_replayed_stands_beside_it() {
    let mut looped = DeadLetter { replays: 3, ..letter(2) };
    looped.message.headers.insert(0, header_of_replays(1));
    let (_folder, store) = store(&[letter(1), looped.clone()]);
    let read = Mutex::new(None);
    replay(&store, &context(), &Filter::default(), false, |mut source| {
        let read = &read;
        async move {
            let Read::Batch(batch) = source.reader.read(LIMIT).await? else { panic!("it has ended") };
            *read.lock().unwrap() = Some(batch);
            Ok(())
        }
    })
    .await
    .unwrap();
    let ReadBatch { batch, replays, .. } = read.into_inner().unwrap().unwrap();
    let messages: Vec<Message> = batch.messages().map(|message| message.to_owned()).collect();
    assert_eq!(messages, [letter(1).message, looped.message.clone()]);
    let replayed =
        |letter: &DeadLetter| Replayed { times: letter.replays + 1, read_at_ms: letter.read_at_ms };
    assert_eq!(replays, [replayed(&letter(1)), replayed(&looped)]);
}

#[tokio::test]
async fn the_position_is_told_in_the_words_of_the_original() {
    let (_folder, store) = store(&[letter(1), DeadLetter { source: "other".to_owned(), ..letter(2) }]);
    let told = Mutex::new(Vec::new());
    replay(&store, &context(), &Filter::default(), false, |source| {
        let told = &told;
        let (name, describe) = (source.name.clone(), Arc::clone(&source.describe));
        run(source, move |message, _| {
            told.lock().unwrap().push(format!("{name}: {}", describe(message.position())));
            Some(SettledAs::Delivered)
        })
    })
    .await
    .unwrap();
    assert_eq!(
        told.into_inner().unwrap(),
        ["file:orders: orders.ndjson line 1", "other: orders.ndjson line 2"]
    );
}

#[tokio::test]
async fn p2_only_what_is_settled_goes() {
    let (_folder, store) = store(&(1..=4).map(letter).collect::<Vec<_>>());
    let mut pipeline = store.clone();
    let mut is_given_back = false;
    let summary = replay_all(&store, false, |message, _| {
        Some(match message.position().offset {
            1 => SettledAs::Filtered,
            // It comes again.
            2 if std::mem::replace(&mut is_given_back, true) => SettledAs::Delivered,
            2 => SettledAs::Returned,
            3 => {
                // It failed as before: the pipeline writes it under the same id.
                pipeline.insert(&[DeadLetter { replays: 1, ..letter(3) }]).unwrap();
                SettledAs::DeadLettered("trap".to_owned())
            }
            _ => {
                // It failed elsewhere: another id.
                let elsewhere = DeadLetter { id: "elsewhere".to_owned(), replays: 1, ..letter(4) };
                pipeline.insert(&[elsewhere]).unwrap();
                SettledAs::DeadLettered("http-400".to_owned())
            }
        })
    })
    .await;
    pipeline = store.clone();
    assert_eq!(summary, Summary { filtered: 1, delivered: 1, dead_lettered: 2, ..Summary::default() });
    let left: Vec<(String, u32)> =
        stored(&pipeline).into_iter().map(|letter| (letter.id, letter.replays)).collect();
    assert_eq!(left, [(letter(3).id, 1), ("elsewhere".to_owned(), 1)]);
}

#[tokio::test]
async fn p2_what_is_given_back_when_the_pipeline_stops_stays() {
    let (_folder, store) = store(&[letter(1), letter(2)]);
    let summary = replay(&store, &context(), &Filter::default(), false, |source| async {
        let OpenSource { mut reader, mut committer, .. } = source;
        let Read::Batch(read) = reader.read(LIMIT).await? else { panic!("it has ended") };
        let outcomes = [SettledAs::Returned, SettledAs::Delivered];
        let settled = |(message, outcome): (MessageRef<'_>, SettledAs)| SettledRow {
            position: message.position(),
            outcome,
            failures: 0,
        };
        committer.each(read.batch.messages().zip(outcomes).map(settled).collect()).await
    })
    .await
    .unwrap();
    assert_eq!(summary, Summary { returned: 1, delivered: 1, stopped: true, ..Summary::default() });
    assert_eq!(stored(&store), [letter(1)]);
}

#[tokio::test]
async fn p8_a_replay_that_is_stopped_while_it_reads_again_says_so() {
    let (_folder, store) = store(&[letter(1)]);
    let summary = replay(&store, &context(), &Filter::default(), false, |source| async {
        let OpenSource { mut reader, mut committer, .. } = source;
        assert!(matches!(reader.read(LIMIT).await?, Read::Batch(_)));
        let waiting = tokio::time::timeout(Duration::from_millis(10), reader.read(LIMIT));
        assert!(waiting.await.is_err(), "it may be given back");
        let position = letter(1).position;
        committer.each(vec![SettledRow { position, outcome: SettledAs::Returned, failures: 0 }]).await?;
        assert!(matches!(reader.read(LIMIT).await?, Read::Batch(_)));
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(summary, Summary { stopped: true, ..Summary::default() });
    assert_eq!(stored(&store), [letter(1)]);
}

#[tokio::test]
async fn a_frame_that_was_no_message_goes_through_the_codec_again() {
    let letters = [source_frame(1, "x,y"), source_frame(2, "bad"), source_frame(3, ",")];
    let (_folder, store) = store(&letters);
    let mut seen = Vec::new();
    let summary = replay_all(&store, false, |message, rejected| {
        let payload = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
        let rejected: Vec<String> =
            rejected.iter().map(|r| format!("{} {} {}", r.row, r.code, r.reason)).collect();
        assert_eq!(rejected, ["2 decode-error still bad"]);
        seen.push(format!("{payload} {}", mark_of(message)));
        Some(match payload.as_str() {
            "bad" => {
                store.insert(&[DeadLetter { replays: 1, ..source_frame(2, "bad") }]).unwrap();
                SettledAs::DeadLettered("still bad".to_owned())
            }
            _ => SettledAs::Delivered,
        })
    })
    .await;
    assert_eq!(seen, ["x 1", "y 1", "bad 1"]);
    let left: Vec<DeadLetter> = stored(&store);
    assert_eq!(left, [DeadLetter { replays: 1, ..source_frame(2, "bad") }, source_frame(3, ",")]);
    assert_eq!((summary.delivered, summary.dead_lettered), (1, 1));
    let skipped = Skipped { count: 1, ids: vec![letter(3).id] };
    assert_eq!(summary.skipped, BTreeMap::from([("its bytes hold no message any more".to_owned(), skipped)]));
}

#[tokio::test]
async fn p2_a_frame_of_many_messages_goes_when_all_of_them_are_settled() {
    let (_folder, store) = store(&[source_frame(1, "x,y")]);
    let summary = replay_all(&store, false, |message, _| {
        (message.payload() == Some(b"x")).then_some(SettledAs::Delivered)
    })
    .await;
    assert_eq!(stored(&store), [source_frame(1, "x,y")]);
    assert_eq!(summary, Summary::default());
}

#[tokio::test]
async fn what_cannot_be_replayed_stays_and_the_reason_is_told() {
    let mut too_large = source_frame(2, "xxx");
    too_large.code = "too-large".to_owned();
    let letters = [
        DeadLetter { replays: MAX_REPLAYS, ..letter(1) },
        too_large,
        DeadLetter { sinks: vec!["a".to_owned(), "gone".to_owned()], ..letter(3) },
        DeadLetter { replays: MAX_REPLAYS - 1, ..letter(4) },
    ];
    let (_folder, store) = store(&letters);
    let summary = replay_all(&store, false, |_, _| Some(SettledAs::Delivered)).await;
    assert_eq!(stored(&store), letters[..3]);
    assert_eq!(summary.delivered, 1);
    let reasons: Vec<(&str, &str)> =
        summary.skipped.iter().map(|(reason, skipped)| (reason.as_str(), skipped.ids[0].as_str())).collect();
    let [(sink, third), (part, second), (loops, first)] = reasons.try_into().unwrap();
    assert!(sink.contains("\"gone\"") && sink.contains("its sinks are a, b"), "{sink}");
    assert!(part.contains("only the first part"), "{part}");
    assert!(loops.contains("replayed 5 times") && loops.contains("--force"), "{loops}");
    assert_eq!([first, second, third], [letter(1).id, letter(2).id, letter(3).id]);

    let summary = replay_all(&store, true, |_, _| Some(SettledAs::Delivered)).await;
    assert_eq!((summary.delivered, summary.skipped.len()), (1, 2));

    let with_head = ReplayContext { codec: Arc::new(Commas { has_head: true }), ..context() };
    assert!(with_head.obstacle(&source_frame(1, "x"), true).unwrap().contains("needs the head"));
    assert_eq!(with_head.obstacle(&letter(1), true), None);
}

#[tokio::test]
async fn two_of_the_same_message_are_not_in_flight_at_once() {
    let twin = DeadLetter { id: "twin".to_owned(), position: letter(1).position, ..letter(2) };
    let (_folder, store) = store(&[letter(1), twin.clone(), letter(3)]);
    replay(&store, &context(), &Filter::default(), false, |source| async {
        let OpenSource { mut reader, mut committer, .. } = source;
        let Read::Batch(first) = reader.read(LIMIT).await? else { panic!("it has ended") };
        assert_eq!(first.batch.len(), 1);
        let mut second = Box::pin(reader.read(LIMIT));
        assert!(tokio::time::timeout(Duration::from_millis(10), &mut second).await.is_err());
        let settled = |position| vec![SettledRow { position, outcome: SettledAs::Delivered, failures: 0 }];
        committer.each(settled(letter(1).position)).await?;
        assert_eq!(stored(&store), [twin.clone(), letter(3)]);
        let Read::Batch(second) = second.await? else { panic!("it has ended") };
        assert_eq!(second.batch.len(), 2);
        committer.each(settled(twin.position)).await?;
        assert_eq!(stored(&store), [letter(3)]);
        committer.each(settled(letter(3).position)).await?;
        assert!(matches!(reader.read(LIMIT).await?, Read::End));
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(stored(&store), []);
}

#[tokio::test]
async fn p6_reads_hold_what_the_limit_allows() {
    let (_folder, store) = store(&(1..=10).map(letter).collect::<Vec<_>>());
    let reads = Mutex::new(Vec::new());
    replay(&store, &context(), &Filter::default(), false, |source| async {
        let OpenSource { mut reader, mut committer, .. } = source;
        for limit in [ReadLimit { rows: 2, bytes: 1 << 20 }, ReadLimit { rows: 100, bytes: 1 }, LIMIT] {
            let Read::Batch(read) = reader.read(limit).await? else { panic!("it has ended") };
            reads.lock().unwrap().push(read.batch.len());
            let settled = |position| SettledRow { position, outcome: SettledAs::Delivered, failures: 0 };
            committer.each(read.batch.messages().map(|m| settled(m.position())).collect()).await?;
        }
        assert!(matches!(reader.read(LIMIT).await?, Read::End));
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(reads.into_inner().unwrap(), [2, 1, 7]);
}

#[tokio::test]
async fn p8_a_replay_that_was_stopped_says_so() {
    let (_folder, store) = store(&[letter(1), DeadLetter { source: "other".to_owned(), ..letter(2) }]);
    let mut calls = 0;
    let summary = replay(&store, &context(), &Filter::default(), false, |_| {
        calls += 1;
        std::future::ready(Ok(()))
    })
    .await
    .unwrap();
    assert_eq!((calls, summary), (1, Summary { stopped: true, ..Summary::default() }));
    assert_eq!(stored(&store).len(), 2);
}
