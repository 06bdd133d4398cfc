//! Queues of a stand-in, as clients of the tests see them.

use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message, QueueAttributeName, SendMessageBatchRequestEntry};
use tokio::runtime::Runtime;

use super::sinks::{number, unique};
use crate::services::aws::StandIn;
use crate::support::DEADLINE;

pub struct Queue {
    pub stand_in: &'static StandIn,
    pub name: String,
    pub url: String,
    client: Client,
    runtime: Runtime,
}

impl Queue {
    pub fn standard(stand_in: &'static StandIn) -> Queue {
        Queue::create(stand_in, &unique("queue"))
    }

    pub fn fifo(stand_in: &'static StandIn) -> Queue {
        Queue::create(stand_in, &format!("{}.fifo", unique("queue")))
    }

    /// A queue with this name, FIFO if it says so.
    pub fn create(stand_in: &'static StandIn, name: &str) -> Queue {
        Queue::with(stand_in, name, &[])
    }

    /// The same with more attributes.
    pub fn with(stand_in: &'static StandIn, name: &str, attributes: &[(QueueAttributeName, &str)]) -> Queue {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let client = Client::new(&stand_in.config());
        let fifo = name.ends_with(".fifo").then_some((QueueAttributeName::FifoQueue, "true"));
        let mut create = client.create_queue().queue_name(name);
        for (attribute, value) in attributes.iter().chain(&fifo) {
            create = create.attributes(attribute.clone(), *value);
        }
        let created = runtime.block_on(create.send()).expect("a queue");
        let url = created.queue_url.expect("its url");
        Queue { stand_in, name: name.to_owned(), url, client, runtime }
    }

    pub fn is_fifo(&self) -> bool {
        self.name.ends_with(".fifo")
    }

    /// Sends bodies, each with its group if the queue has such.
    pub fn send<'a>(&self, messages: impl IntoIterator<Item = (&'a str, String)>) {
        let messages: Vec<(&str, String)> = messages.into_iter().collect();
        self.runtime.block_on(async {
            for ten in messages.chunks(10) {
                let mut request = self.client.send_message_batch().queue_url(&self.url);
                for (index, (group, body)) in ten.iter().enumerate() {
                    let mut entry =
                        SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(body);
                    if self.is_fifo() {
                        let once = format!("{:032x}", rand::random::<u128>());
                        entry = entry.message_group_id(*group).message_deduplication_id(once);
                    }
                    request = request.entries(entry.build().expect("an entry"));
                }
                let answer = request.send().await.expect("it takes messages");
                assert!(answer.failed.is_empty(), "{:?}", answer.failed);
            }
        });
    }

    /// What can be received now; it stays hidden for the queue's visibility timeout.
    pub fn receive(&self) -> Vec<Message> {
        let request = self.client.receive_message().queue_url(&self.url).max_number_of_messages(10);
        let request = request.message_system_attribute_names("All".into());
        self.runtime.block_on(request.send()).expect("it answers").messages.unwrap_or_default()
    }

    /// Messages that can be received, and those in flight.
    pub fn counts(&self) -> (u64, u64) {
        let request = self.client.get_queue_attributes().queue_url(&self.url);
        let answer = self.runtime.block_on(request.attribute_names(QueueAttributeName::All).send());
        let attributes = answer.expect("it answers").attributes.expect("attributes");
        let count = |name| attributes[&name].parse().expect("a number");
        (
            count(QueueAttributeName::ApproximateNumberOfMessages),
            count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        )
    }

    pub fn is_empty(&self) -> bool {
        self.counts() == (0, 0)
    }

    pub fn delete(&self) {
        let request = self.client.delete_queue().queue_url(&self.url);
        self.runtime.block_on(request.send()).expect("it is deleted");
    }

    pub fn arn(&self) -> String {
        let asked = self.client.get_queue_attributes().queue_url(&self.url);
        let asked = asked.attribute_names(QueueAttributeName::QueueArn).send();
        let attributes = self.runtime.block_on(asked).expect("attributes").attributes.expect("some");
        attributes[&QueueAttributeName::QueueArn].clone()
    }

    /// Takes messages out of it until so many came, and whatever is behind them.
    pub fn drain(&self, at_least: usize) -> Vec<Message> {
        let end = Instant::now() + DEADLINE;
        let mut messages = Vec::new();
        self.runtime.block_on(async {
            loop {
                let request = self.client.receive_message().queue_url(&self.url).max_number_of_messages(10);
                let request = request.message_attribute_names("All").wait_time_seconds(0);
                let request = request.message_system_attribute_names("All".into());
                let received = request.send().await.expect("it can be read").messages.unwrap_or_default();
                if received.is_empty() && messages.len() >= at_least {
                    return;
                }
                assert!(Instant::now() < end, "{} of {at_least} messages came", messages.len());
                if received.is_empty() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                for message in received {
                    let receipt = message.receipt_handle().unwrap_or_default();
                    let delete = self.client.delete_message().queue_url(&self.url).receipt_handle(receipt);
                    delete.send().await.expect("it can be deleted");
                    messages.push(message);
                }
            }
        });
        messages
    }

    /// The numbers in the messages that are there, in order.
    pub fn numbers(&self, at_least: u64) -> Vec<u64> {
        let messages = self.drain(at_least as usize);
        messages.iter().map(|message| number(message.body().unwrap_or_default())).collect()
    }
}
