//! Tokens for OAUTHBEARER: asked for with the grant `client_credentials`.

use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use reqwest::Url;
use serde::Deserialize;

use crate::tls;

/// How long the server of the tokens may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Taken where neither the answer nor the token says how long it is valid.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);

/// Whom tokens are asked of, and by whom.
#[derive(Clone, Debug)]
pub struct TokenSource {
    pub url: String,
    pub client_id: String,
    pub client_secret: String,
    pub scope: Option<String>,
}

impl TokenSource {
    /// The secret goes there: only encrypted, or not over a network.
    pub fn check_url(url: &str) -> Result<(), String> {
        let parsed = Url::parse(url).map_err(|error| format!("{url:?} is no url: {error}"))?;
        match parsed.scheme() {
            "https" => Ok(()),
            "http" if tls::is_loopback(parsed.host_str().unwrap_or_default()) => Ok(()),
            "http" => Err("the client's secret would go there unencrypted".to_owned()),
            scheme => Err(format!("`{scheme}` is not spoken here")),
        }
    }
}

/// Gets tokens. librdkafka asks for one in a thread that polls, a while before the last one expires.
pub struct Tokens {
    source: TokenSource,
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
}

/// An answer of the server (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    /// Seconds.
    expires_in: Option<u64>,
}

/// What is read of a token, if it is a JWT (RFC 7519, section 4.1).
#[derive(Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    /// Seconds since 1970-01-01T00:00:00Z.
    exp: Option<f64>,
}

impl Tokens {
    /// To be called within the runtime that requests are made in.
    pub fn new(source: TokenSource) -> anyhow::Result<Tokens> {
        tls::install_provider();
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .context("cannot make a client for tokens")?;
        Ok(Tokens { source, client, runtime: tokio::runtime::Handle::current() })
    }

    /// Asks for a token and waits for it. Not to be called in a task of the runtime.
    pub fn get(&self) -> anyhow::Result<OAuthToken> {
        let answer = self.runtime.block_on(self.ask())?;
        let claims = claims(&answer.access_token);
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let by_answer = answer.expires_in.map(|seconds| now_ms + seconds.saturating_mul(1000) as i64);
        let by_token = claims.exp.map(|seconds| (seconds * 1000.0) as i64);
        let lifetime_ms = by_answer.or(by_token).unwrap_or(now_ms + DEFAULT_LIFETIME.as_millis() as i64);
        Ok(OAuthToken {
            token: answer.access_token,
            principal_name: claims.sub.unwrap_or_else(|| self.source.client_id.clone()),
            lifetime_ms,
        })
    }

    async fn ask(&self) -> anyhow::Result<Answer> {
        let TokenSource { url, client_id, client_secret, scope } = &self.source;
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(scope.as_deref().map(|scope| ("scope", scope)));
        let request = self.client.post(url).basic_auth(client_id, Some(client_secret)).form(&form);
        let answer = request.send().await.context("the server of the tokens cannot be reached")?;
        let status = answer.status();
        if !status.is_success() {
            bail!("the server of the tokens answered {status}");
        }
        let body = answer.bytes().await.context("the server of the tokens did not end its answer")?;
        // Not the reason of serde: it may quote the token.
        serde_json::from_slice(&body)
            .ok()
            .context("the server of the tokens did not answer with `access_token`")
    }
}

/// What a token says of itself; nothing if it is no JWT. Who may trust it is for the broker to say.
fn claims(token: &str) -> Claims {
    let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    payload.and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_goes_nowhere_unencrypted() {
        for url in
            ["https://sso.example/token", "http://127.0.0.1:8080/t", "http://[::1]/t", "http://localhost/t"]
        {
            assert_eq!(TokenSource::check_url(url), Ok(()), "{url}");
        }
        for url in ["http://sso.example/token", "ftp://127.0.0.1/", "sso"] {
            assert!(TokenSource::check_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_jwt_says_whose_it_is_and_how_long() {
        let part = URL_SAFE_NO_PAD.encode(r#"{"sub":"orders","exp":1700000000}"#);
        let read = claims(&format!("e30.{part}."));
        assert_eq!((read.sub.as_deref(), read.exp), (Some("orders"), Some(1_700_000_000.0)));
        assert_eq!(claims("opaque").sub, None);
    }
}
