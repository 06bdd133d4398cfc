//! What an error of a service says about what was asked of it.

use std::error::Error;
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::config::secrets::Redactor;
use crate::sinks::CallError;

/// Why a request, or one of its entries, was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    pub kind: Kind,
    /// The service's own name for it, as `QueueDoesNotExist`; empty if it did not answer.
    pub code: String,
    /// Code and words, without secrets.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It cannot be reached or is in trouble; whether it has done what was asked is not known.
    Unavailable,
    /// It has too much to do for us.
    Throttled,
    /// It does not know us, or does not let us.
    Credentials,
    /// What is named is not there: a queue, a topic, a stream, a key.
    Missing,
    /// It does not do what was asked, however often it is asked.
    Refused,
}

/// Codes of services that throttle, as the SDKs know them.
const THROTTLED: &[&str] = &[
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "KMSThrottlingException",
    "KmsThrottled",
    "LimitExceededException",
    "OverLimit",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionInProgressException",
];

/// Codes of credentials or rights that are missing or wrong: the errors that all services have
/// (<https://docs.aws.amazon.com/awssupport/latest/APIReference/CommonErrors.html>) and those of the
/// ones used here.
const CREDENTIALS: &[&str] = &[
    "AccessDenied",
    "AccessDeniedException",
    "AuthorizationError",
    "AuthorizationErrorException",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidSignatureException",
    "InvalidToken",
    "KMSAccessDeniedException",
    "KMSDisabledException",
    "KMSInvalidStateException",
    "KMSNotFoundException",
    "KMSOptInRequired",
    "KmsAccessDenied",
    "KmsDisabled",
    "KmsInvalidState",
    "KmsNotFound",
    "KmsOptInRequired",
    "MissingAuthenticationToken",
    "NotAuthorized",
    "OptInRequired",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

const MISSING: &[&str] = &[
    "AWS.SimpleQueueService.NonExistentQueue",
    // A queue's url that is one of another region.
    "InvalidAddress",
    "NoSuchBucket",
    "NoSuchKey",
    "NotFound",
    "NotFoundException",
    "QueueDoesNotExist",
    "ResourceNotFoundException",
    "TopicNotFound",
];

const UNAVAILABLE: &[&str] = &[
    "InternalError",
    "InternalErrorException",
    "InternalFailure",
    "InternalFailureException",
    "InternalServerError",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
];

impl Kind {
    fn of_code(code: &str) -> Option<Kind> {
        let kinds = [
            (THROTTLED, Kind::Throttled),
            (CREDENTIALS, Kind::Credentials),
            (MISSING, Kind::Missing),
            (UNAVAILABLE, Kind::Unavailable),
        ];
        // Older services put a namespace before it, and some a url behind it.
        let code = code.split(':').next().unwrap_or(code);
        let short = code.rsplit('#').next().unwrap_or(code);
        kinds.iter().find(|(codes, _)| codes.contains(&short)).map(|&(_, kind)| kind)
    }

    fn of_status(status: u16) -> Kind {
        match status {
            401 | 403 => Kind::Credentials,
            429 => Kind::Throttled,
            404 => Kind::Missing,
            408 | 500.. => Kind::Unavailable,
            _ => Kind::Refused,
        }
    }
}

impl Failure {
    /// Of a request. `what` was asked, as `SendMessageBatch to orders.fifo`.
    pub fn of<E>(what: &str, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let (kind, code, words) = match error {
            SdkError::ServiceError(answer) => {
                let (meta, status) = (answer.err().meta(), answer.raw().status().as_u16());
                let code = meta.code().unwrap_or_default();
                // An answer without a code is none of the service, but of something before it.
                let kind = Kind::of_code(code).unwrap_or_else(|| match code {
                    "" if status < 500 && status != 429 => Kind::Unavailable,
                    _ => Kind::of_status(status),
                });
                let words = match (code, meta.message()) {
                    ("", None) => format!("status {status}"),
                    ("", Some(message)) => format!("status {status}: {message}"),
                    (code, None) => code.to_owned(),
                    (code, Some(message)) => format!("{code}: {message}"),
                };
                (kind, code, words)
            }
            SdkError::TimeoutError(_) => (Kind::Unavailable, "", "no answer in time".to_owned()),
            SdkError::ResponseError(answer) => {
                let status = answer.raw().status();
                (Kind::Unavailable, "", format!("an answer that is none (status {status}): {}", chain(error)))
            }
            // Credentials are looked for before a request is sent.
            _ if is_identity(error) => (Kind::Credentials, "", chain(error)),
            SdkError::ConstructionFailure(_) => (Kind::Refused, "", chain(error)),
            _ => (Kind::Unavailable, "", chain(error)),
        };
        Failure::new(kind, code, format!("{what}: {words}"))
    }

    /// Of an entry of a batch that was answered.
    pub fn of_entry(code: &str, message: Option<&str>, sender_fault: bool) -> Failure {
        let kind = Kind::of_code(code).unwrap_or(match sender_fault {
            true => Kind::Refused,
            false => Kind::Unavailable,
        });
        let reason = message.map_or_else(|| code.to_owned(), |message| format!("{code}: {message}"));
        Failure::new(kind, code, reason)
    }

    fn new(kind: Kind, code: &str, reason: String) -> Failure {
        let reason = Redactor::global().redact(&reason).into_owned();
        Failure { kind, code: code.to_owned(), reason }
    }

    /// Of something that was done for a message and is not the message itself: what is refused there is to
    /// be mended there, and the message waits.
    #[must_use]
    pub fn not_refused(self) -> Failure {
        match self.kind {
            Kind::Refused => Failure { kind: Kind::Unavailable, ..self },
            _ => self,
        }
    }

    /// As the error of a sink's call that nothing of was done, by none of its messages' fault.
    pub fn as_call_error(&self) -> CallError {
        CallError::Unavailable {
            reason: self.reason.clone(),
            retry_after: (self.kind == Kind::Throttled).then_some(THROTTLED_FOR),
            credentials: self.kind == Kind::Credentials,
        }
    }
}

/// Limits of the services are counted by the second.
const THROTTLED_FOR: Duration = Duration::from_secs(1);

/// Whether no credentials could be had.
fn is_identity(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<aws_credential_types::provider::error::CredentialsError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// An error and what caused it, in one sentence.
fn chain(error: &dyn Error) -> String {
    let mut words = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some repeat what they wrap.
        if words.last().is_none_or(|last: &String| !last.contains(&text)) {
            words.push(text);
        }
        cause = error.source();
    }
    if words.is_empty() { error.to_string() } else { words.join(": ") }
}
