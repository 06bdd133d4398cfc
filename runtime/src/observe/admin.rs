//! The admin server: `/metrics`, `/healthz` and `/readyz`, for whoever watches over the process.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::metrics::Metrics;
use crate::config::secrets::Redactor;

/// Where it listens if nothing else is said.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9464";

/// The text format of Prometheus.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An admin server that listens and does not yet answer.
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Clone)]
struct Watched {
    metrics: Arc<Metrics>,
    health: Health,
}

impl AdminServer {
    /// Listens. It asks nobody who they are, so it refuses an address that others can reach unless
    /// `allow_remote` says that this is wanted.
    pub async fn bind(address: SocketAddr, allow_remote: bool) -> anyhow::Result<AdminServer> {
        if !address.ip().is_loopback() && !allow_remote {
            bail!(
                "the admin server on {address} could be reached from other machines, and asks nobody who they are; \
                 name an address like {DEFAULT_ADDRESS}, or add --admin-allow-remote"
            );
        }
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("the admin server cannot listen on {address}; name another address with --admin")
        })?;
        let address = listener.local_addr().context("the admin server has no address")?;
        Ok(AdminServer { listener, address })
    }

    /// Where it listens, with the port that a 0 became.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`; also while pipelines drain, so that they can be watched.
    pub async fn serve(
        self,
        metrics: Arc<Metrics>,
        health: Health,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let router = Router::new()
            .route("/metrics", get(render_metrics))
            .route("/healthz", get(|| async { json(StatusCode::OK, r#"{"alive":true}"#.to_owned()) }))
            .route("/readyz", get(readiness))
            .fallback(|| async { (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n") })
            .with_state(Watched { metrics, health });
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            result = axum::serve(self.listener, router) => result.context("the admin server failed"),
        }
    }
}

async fn render_metrics(State(watched): State<Watched>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], watched.metrics.render()).into_response()
}

async fn readiness(State(watched): State<Watched>) -> Response {
    let readiness = watched.health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_string(&readiness) {
        Ok(text) => json(status, Redactor::global().redact(&text).into_owned()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
        crate::tls::install_provider();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let response = client.get(format!("http://{address}{path}")).send().await.unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        (response.status().as_u16(), kind, response.text().await.unwrap())
    }

    #[tokio::test]
    async fn it_shows_metrics_and_readiness_until_it_is_stopped() {
        let server = AdminServer::bind("127.0.0.1:0".parse().unwrap(), false).await.unwrap();
        let address = server.address();
        let (metrics, health, stop) = (Arc::new(Metrics::new()), Health::default(), CancellationToken::new());
        let served = tokio::spawn(server.serve(Arc::clone(&metrics), health.clone(), stop.clone()));

        metrics.retries.with_label_values(&["p", "sink:out"]).inc_by(3);
        let (status, kind, text) = get(address, "/metrics").await;
        assert_eq!((status, kind.as_str()), (200, METRICS_TYPE));
        assert!(text.contains("millstream_retries_total{pipeline=\"p\",stage=\"sink:out\"} 3"), "{text}");

        assert_eq!(get(address, "/healthz").await.0, 200);
        assert_eq!(get(address, "/readyz").await.0, 200);
        health.not_ready("p", "starting");
        let (status, kind, text) = get(address, "/readyz").await;
        assert_eq!((status, kind.as_str()), (503, "application/json"));
        let text: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(text["pipelines"]["p"]["reasons"][0]["reason"], "starting");
        assert_eq!(get(address, "/healthz").await.0, 200);
        assert_eq!(get(address, "/dead-letters").await.0, 404);

        stop.cancel();
        served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn it_refuses_what_others_can_reach_and_says_what_to_do() {
        let error = AdminServer::bind("0.0.0.0:0".parse().unwrap(), false).await.err().unwrap();
        assert!(error.to_string().contains("add --admin-allow-remote"), "{error}");
        AdminServer::bind("0.0.0.0:0".parse().unwrap(), true).await.unwrap();

        let first = AdminServer::bind("127.0.0.1:0".parse().unwrap(), false).await.unwrap();
        let error = AdminServer::bind(first.address(), false).await.err().unwrap();
        let words = format!("the admin server cannot listen on {}", first.address());
        assert!(error.to_string().contains(&words), "{error}");
    }
}
