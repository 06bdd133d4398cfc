//! What a look-up of a known id takes, beside that in a map of one's own.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use millstream_registry::cache::{Cache, Keep};
use millstream_registry::{Authentication, Registry, Settings};

const IDS: u32 = 64;
const LOOKUPS: u32 = 5_000_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cache = runtime.block_on(filled());
    let control: HashMap<u32, Arc<usize>> = (0..IDS).map(|id| (id, Arc::new(1))).collect();
    for _ in 0..3 {
        let own = nanoseconds(|id| control.get(&id).cloned());
        let ours = nanoseconds(|id| cache.get(id));
        println!("look-up by id: {ours:.1} ns, in a map of one's own {own:.1} ns, ratio {:.2}", ours / own);
    }
}

fn nanoseconds(get: impl Fn(u32) -> Option<Arc<usize>>) -> f64 {
    let began = Instant::now();
    for number in 0..LOOKUPS {
        black_box(get(black_box(number % IDS)).unwrap());
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS)
}

async fn filled() -> Cache<usize> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let router = Router::new().fallback(async || "{\"schema\":\"{}\"}");
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let registry = Registry::new(client, &[url], &Authentication::None, Settings::default()).unwrap();
    let cache = Cache::new(Arc::new(registry), Keep::default(), |resolved| Ok(resolved.schema.text.len()));
    for id in 0..IDS {
        cache.fetch(id).await.unwrap();
    }
    cache
}
