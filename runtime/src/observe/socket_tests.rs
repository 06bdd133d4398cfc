use super::*;
use crate::codecs::{Around, CODECS};
use crate::dead_letters::DeadLetter;
use crate::dead_letters::testing::letter;
use crate::sources::{OpenSource, Read, ReadLimit, SettledAs, SettledRow};
use crate::store::Checkpoints;

struct Running {
    _parent: tempfile::TempDir,
    folder: PathBuf,
    store: DeadLetterStore,
    attached: mpsc::Receiver<Attach>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
}

/// Serves the socket of a pipeline that has these dead letters.
fn running(below: &str, letters: &[DeadLetter]) -> Running {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join(below);
    let data = DataFolder::open(&folder, "orders").unwrap();
    data.save(&[("orders.ndjson".to_owned(), serde_json::json!({ "offset": 7 }))]).unwrap();
    let store = DeadLetterStore::new(&data, Duration::from_secs(3600));
    store.insert(letters).unwrap();
    let lines = CODECS.iter().find(|codec| codec.name == "lines").unwrap();
    let codec = (lines.decoder)(serde_json::json!({}), Around::nothing()).unwrap();
    let (attach, attached) = mpsc::channel(1);
    let context = ReplayContext { sinks: vec!["a".to_owned()], codec };
    let service = Service { folder: data.clone(), store: store.clone(), elsewhere: None, context, attach };
    let stop = CancellationToken::new();
    let server = SocketServer::bind(&data).unwrap();
    let served = tokio::spawn(server.serve(service, stop.clone()));
    Running { _parent: parent, folder, store, attached, stop, served }
}

async fn deliver_all(source: OpenSource) {
    let OpenSource { mut reader, mut committer, .. } = source;
    while let Read::Batch(read) = reader.read(ReadLimit { rows: 10, bytes: 1000 }).await.unwrap() {
        let settled = |position| SettledRow { position, outcome: SettledAs::Delivered, failures: 0 };
        committer
            .each(read.batch.messages().map(|message| settled(message.position())).collect())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_client_sees_and_does_what_the_process_could() {
    let old = DeadLetter { failed_at_ms: 0, ..letter(4) };
    let now = jiff::Timestamp::now().as_millisecond();
    let recent = |n| DeadLetter { failed_at_ms: now, ..letter(n) };
    let mut running = running("data", &[recent(1), recent(2), recent(3), old]);
    let client = Client::new(&running.folder).unwrap();

    let end = client.end().await.unwrap();
    let page = client.page(&Filter::default(), 1, end).await.unwrap();
    assert_eq!(
        page.letters.iter().map(|l| l.id.clone()).collect::<Vec<_>>(),
        [2, 3, 4].map(|n| letter(n).id)
    );
    assert_eq!((&page.letters[0], page.next), (&recent(2), None));
    assert_eq!(client.count(&Filter::of_id(&letter(3).id)).await.unwrap(), 1);
    assert_eq!(client.purge_expired().await.unwrap(), 1);
    assert_eq!(client.purge(&Filter::of_id(&letter(3).id)).await.unwrap(), 1);
    let checkpoints = client.checkpoints().await.unwrap();
    assert_eq!((checkpoints.len(), checkpoints[0].partition.as_str()), (1, "orders.ndjson"));

    let replayed = tokio::spawn(async move { client.replay(&Filter::of_id(&letter(1).id), false).await });
    let Attach { source, done } = running.attached.recv().await.unwrap();
    let second = Client::new(&running.folder).unwrap().replay(&Filter::default(), false).await.unwrap_err();
    assert!(second.to_string().contains("a replay of this pipeline is running already"), "{second}");
    deliver_all(source).await;
    done.send(Ok(())).unwrap();
    assert_eq!(replayed.await.unwrap().unwrap(), Summary { delivered: 1, ..Summary::default() });
    assert_eq!(running.store.depth().unwrap(), 1);

    running.stop.cancel();
    running.served.await.unwrap().unwrap();
    assert!(!DataFolder::socket(&running.folder).exists());
}

#[tokio::test]
async fn only_its_owner_can_open_it() {
    let running = running("data", &[]);
    let mode = std::fs::metadata(DataFolder::socket(&running.folder)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_long_path_is_no_obstacle() {
    let running = running(&"a-folder-with-a-long-name/".repeat(8), &[letter(1)]);
    assert!(DataFolder::socket(&running.folder).as_os_str().len() > 107);
    assert_eq!(Client::new(&running.folder).unwrap().end().await.unwrap(), 1);
}

#[tokio::test]
async fn a_socket_that_a_killed_process_left_behind_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataFolder::open(folder.path(), "orders").unwrap();
    let path = DataFolder::socket(folder.path());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = SocketServer::bind(&data).unwrap();
    tokio::net::UnixStream::connect(&path).await.unwrap();
    drop(server);
    assert!(!path.exists());
}

#[tokio::test]
async fn p2_a_pipeline_that_stops_says_that_nothing_is_lost() {
    let mut running = running("data", &[letter(1)]);
    let client = Client::new(&running.folder).unwrap();
    let replayed = tokio::spawn(async move { client.replay(&Filter::default(), false).await });
    drop(running.attached.recv().await.unwrap());
    let error = replayed.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("what was not settled is a dead letter as before"), "{error}");
    assert_eq!(running.store.depth().unwrap(), 1);
}

#[tokio::test]
async fn p8_a_stop_waits_for_answers_that_are_on_their_way() {
    let mut running = running("data", &[letter(1)]);
    let client = Client::new(&running.folder).unwrap();
    let replayed = tokio::spawn(async move { client.replay(&Filter::default(), false).await });
    let Attach { source, done } = running.attached.recv().await.unwrap();
    running.stop.cancel();
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut running.served).await.is_err());
    deliver_all(source).await;
    done.send(Ok(())).unwrap();
    running.served.await.unwrap().unwrap();
    assert_eq!(replayed.await.unwrap().unwrap(), Summary { delivered: 1, ..Summary::default() });
}

#[tokio::test]
async fn where_nobody_listens_the_socket_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = format!("{:#}", Client::new(folder.path()).unwrap().end().await.unwrap_err());
    let socket = folder.path().join("admin.sock").display().to_string();
    assert!(error.contains(&format!("no answer on the admin socket {socket}")), "{error}");
}
