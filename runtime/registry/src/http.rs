//! What clients of HTTP read in answers and errors, of a registry or of any other server.

use std::error::Error;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// What a `Retry-After` counts at most: a server may be wrong about its clock, or ours.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// How long a server asks to be left alone, an hour at most.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    delay(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn delay(text: &str, now: SystemTime) -> Option<Duration> {
    let asked = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(asked.min(MAX_RETRY_AFTER))
}

/// An error and what caused it, in one sentence.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Some repeat what they wrap.
        if !text.ends_with(&words) {
            text += &format!(": {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(delay("7", now), Some(Duration::from_secs(7)));
        assert_eq!(delay("Sun, 06 Nov 1994 08:50:07 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(delay("Sunday, 06-Nov-94 08:50:07 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(delay("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(delay("999999999", now), Some(MAX_RETRY_AFTER));
        assert_eq!(delay("soon", now), None);
        assert_eq!(delay("-1", now), None);
    }
}
