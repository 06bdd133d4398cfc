//! What librdkafka calls back: its log and its errors become ours, and tokens are asked for.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::token::Tokens;
use crate::config::secrets::Redactor;

/// What callbacks of a client need.
#[derive(Clone)]
pub struct ClusterContext {
    /// Whose client it is, for the log: `source kafka of orders`.
    of: String,
    tokens: Option<Arc<Tokens>>,
    /// The last error that has to do with no message: a broker that is not there, a refusal.
    last_error: Arc<Mutex<Option<(RDKafkaErrorCode, String)>>>,
}

impl ClusterContext {
    pub(super) fn new(of: &str, tokens: Option<Tokens>) -> ClusterContext {
        ClusterContext { of: of.to_owned(), tokens: tokens.map(Arc::new), last_error: Arc::default() }
    }

    /// The last error that has to do with no message, in words.
    pub fn last_error(&self) -> Option<String> {
        let last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(_, reason)| reason.clone())
    }

    /// Takes the last error that has to do with no message.
    pub fn take_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for ClusterContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let message = Redactor::global().redact(message);
        match level {
            // It comes as an error, too, and not every one is the end.
            _ if facility == "FATAL" => tracing::debug!(target: "librdkafka", of = self.of, "{message}"),
            // Messages were deleted before they were read.
            _ if facility == "OFFSET" => tracing::warn!(target: "librdkafka", of = self.of, "{message}"),
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", of = self.of, facility, "{message}");
            }
            // A broker that cannot be reached is logged so, by each thread and each time.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
                tracing::debug!(target: "librdkafka", of = self.of, facility, "{message}");
            }
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::trace!(target: "librdkafka", of = self.of, facility, "{message}");
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = Redactor::global().redact(reason).into_owned();
        tracing::debug!(target: "librdkafka", of = self.of, %error, reason, "an error of the client");
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some((code, reason));
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let tokens = self.tokens.as_ref().ok_or("no tokens are configured")?;
        tokens.get().map_err(|error| format!("{error:#}").into())
    }
}

impl ConsumerContext for ClusterContext {}
