//! What is asked for, and how often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use millstream_registry::cache::{Cache, Keep};
use millstream_registry::{Error, Registry};

use crate::front::{Front, registry};

const NONE: (StatusCode, &str) =
    (StatusCode::NOT_FOUND, "{\"error_code\":40403,\"message\":\"Schema not found\"}");

/// Makes the length of a text of it.
fn lengths(registry: Registry, keep: Keep) -> Arc<Cache<usize>> {
    Arc::new(Cache::new(Arc::new(registry), keep, |resolved| match resolved.schema.text.as_str() {
        "bad" => Err("it is bad".to_owned()),
        text => Ok(text.len()),
    }))
}

#[tokio::test]
async fn an_id_is_asked_for_once() {
    let front = Front::answering(|_| "{\"schema\":\"four\"}");
    let cache = lengths(registry(&front.url()), Keep::default());
    assert!(cache.get(7).is_none());
    let first = cache.fetch(7).await.unwrap();
    assert_eq!(*first, 4);
    assert!(Arc::ptr_eq(&cache.fetch(7).await.unwrap(), &first));
    assert!(Arc::ptr_eq(&cache.get(7).unwrap(), &first));
    assert_eq!(front.asked(), ["GET /schemas/ids/7"]);
}

#[tokio::test]
async fn those_who_miss_the_same_id_share_a_request() {
    let (entered, mut has_entered) = tokio::sync::mpsc::unbounded_channel();
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&go);
    let front = Front::start(move |_| {
        entered.send(()).unwrap();
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            "{\"schema\":\"four\"}".into_response()
        }
    });
    let cache = lengths(registry(&front.url()), Keep::default());
    let ask = || {
        let cache = Arc::clone(&cache);
        tokio::spawn(async move { cache.fetch(7).await })
    };
    let first = ask();
    has_entered.recv().await.unwrap();
    let others: Vec<_> = (0..50).map(|_| ask()).collect();
    // They are on one thread: all of them have asked and wait.
    tokio::task::yield_now().await;
    // The one that made the request goes; another makes it again.
    first.abort();
    has_entered.recv().await.unwrap();
    go.add_permits(2);
    for other in others {
        assert_eq!(*other.await.unwrap().unwrap(), 4);
    }
    assert_eq!(front.asked().len(), 2);
}

#[tokio::test]
async fn an_id_that_is_none_is_not_asked_for_again_for_a_time() {
    let front = Front::answering(|path| match path.ends_with("/8") {
        true => "{\"schema\":\"bad\"}".into_response(),
        false => NONE.into_response(),
    });
    let keep = Keep { missing: Duration::from_millis(300), ..Keep::default() };
    let cache = lengths(registry(&front.url()), keep);
    let began = Instant::now();
    let error = cache.fetch(7).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }));
    let unusable = cache.fetch(8).await.unwrap_err();
    assert_eq!(unusable.to_string(), "schema 8 cannot be used: it is bad");
    let (again, known, other) = (cache.fetch(7).await, cache.missing(7), cache.fetch(8).await);
    if began.elapsed() < Duration::from_millis(300) {
        assert_eq!((again.unwrap_err(), known), (error.clone(), Some(error)));
        assert_eq!(other.unwrap_err(), unusable);
        assert_eq!(front.asked().len(), 2);
    }
    while cache.missing(7).is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = front.asked().len();
    cache.fetch(7).await.unwrap_err();
    assert_eq!(front.asked().len(), before + 1);
}

#[tokio::test]
async fn what_is_not_the_schemas_fault_is_not_remembered() {
    let away = Arc::new(AtomicBool::new(true));
    let is_away = Arc::clone(&away);
    let front = Front::answering(move |_| match is_away.load(Ordering::SeqCst) {
        true => StatusCode::BAD_GATEWAY.into_response(),
        false => "{\"schema\":\"four\"}".into_response(),
    });
    let cache = lengths(registry(&front.url()), Keep::default());
    assert!(matches!(cache.fetch(7).await, Err(Error::Unavailable { .. })));
    assert_eq!(cache.missing(7), None);
    away.store(false, Ordering::SeqCst);
    assert_eq!(*cache.fetch(7).await.unwrap(), 4);
}

#[tokio::test]
async fn so_many_ids_are_kept_and_no_more() {
    let front = Front::answering(|_| "{\"schema\":\"four\"}");
    let cache = lengths(registry(&front.url()), Keep { ids: 3, ..Keep::default() });
    for id in 0..5 {
        cache.fetch(id).await.unwrap();
    }
    let kept: Vec<u32> = (0..5).filter(|id| cache.get(*id).is_some()).collect();
    assert_eq!(kept, [2, 3, 4]);
}

#[tokio::test]
async fn a_subject_is_asked_for_again_after_a_time_and_stale_while_the_registry_is_away() {
    let state = Arc::new(std::sync::Mutex::new(1));
    let says = Arc::clone(&state);
    let front = Front::answering(move |path| {
        let version = *says.lock().unwrap();
        match (version, path.starts_with("/subjects/s/")) {
            (0, _) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            (-1, _) => (StatusCode::NOT_FOUND, "{\"error_code\":40401,\"message\":\"gone\"}").into_response(),
            (version, true) => {
                format!("{{\"subject\":\"s\",\"version\":{version},\"id\":{version},\"schema\":\"x\"}}")
                    .into_response()
            }
            (version, false) => {
                format!("{{\"schema\":\"{}\"}}", "x".repeat(version.try_into().unwrap())).into_response()
            }
        }
    });
    let long = lengths(registry(&front.url()), Keep::default());
    let short = lengths(registry(&front.url()), Keep { subject: Duration::ZERO, ..Keep::default() });
    for cache in [&long, &short] {
        let latest = cache.latest("s").await.unwrap();
        assert_eq!((latest.id, latest.version, *latest.value, latest.stale), (1, 1, 1, None));
    }
    *state.lock().unwrap() = 2;
    assert_eq!(long.latest("s").await.unwrap().version, 1, "it is not time yet");
    let latest = short.latest("s").await.unwrap();
    assert_eq!((latest.id, latest.version, *latest.value, latest.stale), (2, 2, 2, None));

    *state.lock().unwrap() = 0;
    let before = front.asked().len();
    for _ in 0..3 {
        let latest = short.latest("s").await.unwrap();
        assert_eq!((latest.id, *latest.value), (2, 2));
        assert!(matches!(latest.stale, Some(Error::Unavailable { .. })));
    }
    assert_eq!(front.asked().len(), before + 1, "a registry that is away is left alone for a time");
    assert!(matches!(short.latest("other").await, Err(Error::Unavailable { .. })));

    let eager = Keep { subject: Duration::ZERO, away: Duration::ZERO, ..Keep::default() };
    let eager = lengths(registry(&front.url()), eager);
    *state.lock().unwrap() = 3;
    eager.latest("s").await.unwrap();
    *state.lock().unwrap() = -1;
    assert!(matches!(eager.latest("s").await, Err(Error::NotFound { .. })), "it is gone, which is no outage");
}
