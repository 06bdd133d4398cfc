//! Messages whose body only stands for another one: a notification in its envelope, a pointer into S3.

use std::path::Path;

use super::body::Content;
use crate::aws::claim_check::{
    CLAIM_CHECK, FetchSection, Fetcher, LEGACY_SIZE_ATTRIBUTE, NoPayload, Pointer, SIZE_ATTRIBUTE,
};
use crate::aws::notification::{Notification, NotificationSection, SIGNATURE, Verifier};
use crate::aws::{Access, Failure, TYPE_HEADER};

/// Opens them.
pub struct Opener {
    /// Envelopes are taken off.
    unwraps: bool,
    verifier: Option<Verifier>,
    fetcher: Option<Fetcher>,
    max_message_bytes: usize,
    at_once: usize,
}

/// Messages that are opened at the same time, at most.
const AT_ONCE: usize = 16;

/// Share of the budget for what is opened at the same time.
const SHARE: usize = 4;

/// How often an object is tried to be removed.
const REMOVE_TRIES: u32 = 3;

impl Opener {
    pub fn new(
        notifications: Option<&NotificationSection>,
        claim_check: Option<&FetchSection>,
        access: &Access,
        base: &Path,
        max_message_bytes: usize,
        budget: usize,
    ) -> Opener {
        let at_once = match claim_check {
            Some(_) => (budget / SHARE / max_message_bytes.max(1)).clamp(1, AT_ONCE),
            None => AT_ONCE,
        };
        Opener {
            at_once,
            unwraps: notifications.is_some(),
            verifier: notifications.and_then(|section| Verifier::new(section, base)),
            fetcher: claim_check.map(|section| Fetcher::new(section, access, base)),
            max_message_bytes,
        }
    }

    /// Whether any message may have to be opened.
    pub fn opens(&self) -> bool {
        self.unwraps || self.fetcher.is_some()
    }

    /// Messages that may be opened at the same time.
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// Bytes that what is opened may come to before it is handed out.
    pub fn reserved(&self) -> usize {
        if self.fetcher.is_some() { self.at_once * self.max_message_bytes } else { 0 }
    }

    /// Whether this one has.
    pub fn wants(&self, content: &Content) -> bool {
        self.unwraps || (self.fetcher.is_some() && is_aside(content))
    }

    /// Puts in place of the body what it stands for, or the reason why there is nothing. Returns the
    /// pointer to an object that is to be removed with the message.
    ///
    /// # Errors
    /// The inner one passes, and this can be tried again; the outer one is of the configuration, and no
    /// waiting helps.
    pub async fn open(&self, content: &mut Content) -> anyhow::Result<Result<Option<Pointer>, Failure>> {
        if self.unwraps
            && let Err(none) = self.unwrap(content).await?
        {
            return Ok(refuse(content, none).map(|()| None));
        }
        let Some(fetcher) = self.fetcher.as_ref().filter(|_| is_aside(content)) else { return Ok(Ok(None)) };
        let pointer = match Pointer::read(&content.payload) {
            Ok(pointer) => pointer,
            Err(reason) => {
                content.refused = Some((CLAIM_CHECK, reason));
                return Ok(Ok(None));
            }
        };
        match fetcher.fetch(&pointer, self.max_message_bytes).await? {
            Ok(payload) => {
                content.payload = payload.into();
                content.headers.retain(|(name, _)| !is_size(name));
                Ok(Ok(fetcher.deletes().then_some(pointer)))
            }
            Err(none) => Ok(refuse(content, none).map(|()| None)),
        }
    }

    /// Takes a notification out of its envelope, if it is in one.
    async fn unwrap(&self, content: &mut Content) -> anyhow::Result<Result<(), NoPayload>> {
        let Some(notification) = Notification::read(&content.payload) else {
            let reason = "it is no notification of SNS, which alone is signed".to_owned();
            return Ok(match self.verifier {
                Some(_) => Err(NoPayload::Never { code: SIGNATURE, reason }),
                None => Ok(()),
            });
        };
        if let Some(verifier) = &self.verifier
            && let Err(none) = verifier.verify(&notification).await?
        {
            return Ok(Err(none));
        }
        for (name, kind, value) in notification.attributes() {
            if kind != "String" {
                content.headers.push((format!("{TYPE_HEADER}{name}"), kind.as_bytes().to_vec()));
            }
            content.headers.push((name.to_owned(), value));
        }
        let mut add =
            |name: &str, value: &str| content.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        add("sns-message-id", &notification.message_id);
        add("sns-topic-arn", &notification.topic_arn);
        if let Some(subject) = &notification.subject {
            add("sns-subject", subject);
        }
        content.sent_at_ms = notification.published_ms().unwrap_or(content.sent_at_ms);
        content.payload = notification.message.into_bytes();
        Ok(Ok(()))
    }

    /// Removes an object whose message is gone. One that cannot be removed stays, and is told.
    pub async fn remove(&self, pipeline: &str, pointer: &Pointer) {
        let Some(fetcher) = &self.fetcher else { return };
        let mut why = String::new();
        for _ in 0..REMOVE_TRIES {
            match fetcher.remove(pointer).await {
                Ok(Ok(())) => return,
                Ok(Err(failure)) => why = failure.reason,
                Err(error) => why = format!("{error:#}"),
            }
        }
        tracing::warn!(pipeline, object = %pointer, reason = why, "the payload of a message that is gone stays in S3");
    }
}

fn refuse(content: &mut Content, none: NoPayload) -> Result<(), Failure> {
    match none {
        NoPayload::Never { code, reason } => {
            content.refused = Some((code, reason));
            Ok(())
        }
        NoPayload::Now(failure) => Err(failure),
    }
}

fn is_aside(content: &Content) -> bool {
    content.headers.iter().any(|(name, _)| [SIZE_ATTRIBUTE, LEGACY_SIZE_ATTRIBUTE].contains(&name.as_str()))
}

/// Headers about the size of a payload in S3, which are true of no other body.
fn is_size(name: &str) -> bool {
    let name = name.strip_prefix(TYPE_HEADER).unwrap_or(name);
    [SIZE_ATTRIBUTE, LEGACY_SIZE_ATTRIBUTE].contains(&name)
}
