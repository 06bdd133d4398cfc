//! A queue, and what is asked of it.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::operation::receive_message::ReceiveMessageOutput;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageSystemAttributeName, QueueAttributeName,
};
use tokio::sync::OnceCell;

use super::custody::Ask;
use crate::aws::queue::{self, FIFO};
use crate::aws::{Connection, Failure, Kind};

/// Why a request was not done.
#[derive(Debug)]
pub enum Trouble {
    /// No request can be made at all, and no waiting helps.
    Setup(anyhow::Error),
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Failed(failure)
    }
}

impl Trouble {
    /// Of a request that was not answered within this time.
    pub fn no_answer(what: &str, limit: std::time::Duration) -> Trouble {
        let kind = Kind::Unavailable;
        Trouble::Failed(Failure {
            kind,
            code: String::new(),
            reason: format!("{what}: no answer within {limit:?}"),
        })
    }

    pub fn reason(&self) -> String {
        match self {
            Trouble::Setup(error) => format!("{error:#}"),
            Trouble::Failed(failure) => failure.reason.clone(),
        }
    }

    pub fn is_of_credentials(&self) -> bool {
        matches!(self, Trouble::Failed(Failure { kind: Kind::Credentials, .. }))
    }

    /// Whether it may have been done all the same.
    pub fn may_be_done(&self) -> bool {
        matches!(self, Trouble::Failed(Failure { kind: Kind::Unavailable, .. }))
    }
}

/// What a queue says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub visible: i64,
    pub in_flight: i64,
    pub delayed: i64,
    pub is_fifo: bool,
    pub redrive_policy: Option<String>,
}

impl Attributes {
    /// What of it does not go together with a source that reads it.
    pub fn warnings(&self, queue: &Queue, max_failures: u32) -> Vec<String> {
        let mut warnings = Vec::from_iter(redrive_warning(max_failures, self.redrive_policy.as_deref()));
        if self.is_fifo != queue.is_fifo() {
            let said = if self.is_fifo { "is one of FIFO" } else { "is a standard queue" };
            warnings.push(format!(
                "the queue {said}, but its name says otherwise (`{FIFO}` ends the names of FIFO queues): it is \
                 read as its name says"
            ));
        }
        warnings
    }
}

pub struct Queue {
    /// A name, or a url.
    given: String,
    connection: Connection<Client>,
    url: OnceCell<String>,
}

/// What a receive asks for.
#[derive(Clone, Copy, Debug)]
pub struct Receive<'a> {
    pub messages: usize,
    pub wait_secs: i32,
    pub visibility_secs: i32,
    /// Of a FIFO queue: after an answer that was lost the same messages come by the same id.
    pub attempt: Option<&'a str>,
}

impl Queue {
    pub fn new(given: &str, connection: Connection<Client>) -> Queue {
        Queue { given: given.to_owned(), connection, url: OnceCell::new() }
    }

    pub fn name(&self) -> &str {
        queue::name(&self.given)
    }

    pub fn is_fifo(&self) -> bool {
        queue::is_fifo(&self.given)
    }

    /// A client, and the queue's url.
    async fn found(&self) -> Result<(&Client, &str), Trouble> {
        let client = self.connection.client().await.map_err(Trouble::Setup)?;
        let url = self.url.get_or_try_init(|| queue::url(client, &self.given)).await?;
        Ok((client, url))
    }

    fn failure<E>(
        &self,
        what: &str,
        error: &aws_sdk_sqs::error::SdkError<E, aws_smithy_runtime_api::client::orchestrator::HttpResponse>,
    ) -> Failure
    where
        E: aws_sdk_sqs::error::ProvideErrorMetadata + std::error::Error + 'static,
    {
        Failure::of(&format!("{what} of {}", self.name()), error)
    }

    pub async fn receive(&self, receive: Receive<'_>) -> Result<Vec<Message>, Trouble> {
        use MessageSystemAttributeName as System;
        let wanted = [
            System::ApproximateReceiveCount,
            System::AwsTraceHeader,
            System::MessageDeduplicationId,
            System::MessageGroupId,
            System::SentTimestamp,
            System::SequenceNumber,
        ];
        let (client, url) = self.found().await?;
        let answer = client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(receive.messages as i32)
            .wait_time_seconds(receive.wait_secs)
            .visibility_timeout(receive.visibility_secs)
            .set_receive_request_attempt_id(receive.attempt.map(str::to_owned))
            .set_message_system_attribute_names(Some(wanted.to_vec()))
            .message_attribute_names("All")
            .send()
            .await;
        let ReceiveMessageOutput { messages, .. } =
            answer.map_err(|error| self.failure("ReceiveMessage", &error))?;
        Ok(messages.unwrap_or_default())
    }

    /// Deletes messages, at most ten. What became of each, `None` if it is gone.
    pub async fn delete(&self, asks: &[Ask]) -> Result<Vec<Option<Failure>>, Trouble> {
        let (client, url) = self.found().await?;
        let mut request = client.delete_message_batch().queue_url(url);
        for (index, ask) in asks.iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(&*ask.handle)
                .build()
                .map_err(|error| Trouble::Setup(error.into()))?;
            request = request.entries(entry);
        }
        let answer = request.send().await.map_err(|error| self.failure("DeleteMessageBatch", &error))?;
        let done = answer.successful.iter().map(|entry| entry.id.as_str());
        Ok(outcomes(asks.len(), done, &answer.failed))
    }

    /// Sets for how many seconds from now messages are hidden, at most ten, in this order. What became of
    /// each, `None` if it was done.
    pub async fn change_visibility(&self, asks: &[(Ask, u32)]) -> Result<Vec<Option<Failure>>, Trouble> {
        let (client, url) = self.found().await?;
        let mut request = client.change_message_visibility_batch().queue_url(url);
        for (index, (ask, seconds)) in asks.iter().enumerate() {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(&*ask.handle)
                .visibility_timeout(*seconds as i32)
                .build()
                .map_err(|error| Trouble::Setup(error.into()))?;
            request = request.entries(entry);
        }
        let answer =
            request.send().await.map_err(|error| self.failure("ChangeMessageVisibilityBatch", &error))?;
        let done = answer.successful.iter().map(|entry| entry.id.as_str());
        Ok(outcomes(asks.len(), done, &answer.failed))
    }

    pub async fn attributes(&self) -> Result<Attributes, Trouble> {
        use QueueAttributeName as Name;
        let (client, url) = self.found().await?;
        // Not each by its name: a queue that is none of FIFO refuses to be asked whether it is one.
        let answer = client.get_queue_attributes().queue_url(url).attribute_names(Name::All).send().await;
        let answer = answer.map_err(|error| self.failure("GetQueueAttributes", &error))?;
        let attributes = answer.attributes.unwrap_or_default();
        let count = |name: Name| attributes.get(&name).and_then(|text| text.parse().ok()).unwrap_or_default();
        Ok(Attributes {
            visible: count(Name::ApproximateNumberOfMessages),
            in_flight: count(Name::ApproximateNumberOfMessagesNotVisible),
            delayed: count(Name::ApproximateNumberOfMessagesDelayed),
            is_fifo: attributes.get(&Name::FifoQueue).is_some_and(|text| text == "true"),
            redrive_policy: attributes.get(&Name::RedrivePolicy).filter(|text| !text.is_empty()).cloned(),
        })
    }
}

fn outcomes<'a>(
    count: usize,
    done: impl Iterator<Item = &'a str>,
    failed: &[BatchResultErrorEntry],
) -> Vec<Option<Failure>> {
    let silent = Failure::of_entry("", Some("no word of it in the answer"), false);
    let mut outcomes = vec![Some(silent); count];
    let index = |id: &str| id.parse::<usize>().ok().filter(|&index| index < count);
    for id in done {
        if let Some(index) = index(id) {
            outcomes[index] = None;
        }
    }
    for entry in failed {
        if let Some(index) = index(&entry.id) {
            outcomes[index] =
                Some(Failure::of_entry(&entry.code, entry.message.as_deref(), entry.sender_fault));
        }
    }
    outcomes
}

/// Whether SQS does not take the receipt handle of a message any more: it is visible again, is deleted, or
/// was received anew. (Of a FIFO queue an old handle is an invalid value.)
pub fn is_gone(failure: &Failure) -> bool {
    let code = failure.code.rsplit('.').next().unwrap_or_default();
    ["ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue", "InvalidIdFormat"]
        .contains(&code)
}

/// Whether the queue's own redrive policy takes messages away before they have failed `max_failures` times
/// here, in words. Its `maxReceiveCount` counts receives, those of a restart too.
fn redrive_warning(max_failures: u32, redrive_policy: Option<&str>) -> Option<String> {
    let policy: serde_json::Value = serde_json::from_str(redrive_policy?).ok()?;
    let count = &policy["maxReceiveCount"];
    // SQS takes and gives it as a number or as text.
    let receives = count.as_u64().or_else(|| count.as_str()?.parse().ok())?;
    let to = policy["deadLetterTargetArn"]
        .as_str()
        .map_or("another queue", |arn| arn.rsplit(':').next().unwrap_or(arn));
    (receives <= u64::from(max_failures)).then(|| {
        format!(
            "the queue's redrive policy moves a message to {to} once it was received {receives} times (maxReceiveCount), \
             which a few restarts are enough for, before it can become a dead letter here by `max_failures` \
             ({max_failures}): raise maxReceiveCount, or lower `max_failures`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redrive_policy_that_is_tighter_is_told() {
        let policy = |count: &str| {
            format!(
                r#"{{"deadLetterTargetArn":"arn:aws:sqs:eu-central-1:1:orders-dead","maxReceiveCount":{count}}}"#
            )
        };
        let told = redrive_warning(3, Some(&policy("3"))).unwrap();
        assert!(told.contains("orders-dead once it was received 3 times"), "{told}");
        assert!(redrive_warning(3, Some(&policy("\"2\""))).is_some());
        assert_eq!(redrive_warning(3, Some(&policy("4"))), None);
        assert_eq!(redrive_warning(3, None), None);
    }

    #[test]
    fn an_entry_that_the_answer_does_not_name_has_failed() {
        let failed = BatchResultErrorEntry::builder().id("2").code("InternalError").sender_fault(false);
        let outcomes = outcomes(3, ["0"].into_iter(), &[failed.build().unwrap()]);
        let kinds: Vec<Option<Kind>> =
            outcomes.iter().map(|outcome| outcome.as_ref().map(|failure| failure.kind)).collect();
        assert_eq!(kinds, [None, Some(Kind::Unavailable), Some(Kind::Unavailable)]);
    }
}
