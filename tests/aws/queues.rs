//! Queues of a stand-in, as clients of the tests see them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message, QueueAttributeName};

use super::sinks::{block_on, number, unique};
use crate::services::aws::StandIn;
use crate::support::DEADLINE;

pub struct Queue {
    pub name: String,
    pub url: String,
    client: Client,
}

impl Queue {
    pub fn standard(stand_in: &StandIn) -> Queue {
        Queue::create(stand_in, &unique("queue"))
    }

    pub fn fifo(stand_in: &StandIn) -> Queue {
        Queue::create(stand_in, &format!("{}.fifo", unique("queue")))
    }

    /// A queue with this name, FIFO if it says so.
    pub fn create(stand_in: &StandIn, name: &str) -> Queue {
        let client = Client::new(&stand_in.config());
        let mut attributes = HashMap::new();
        if name.ends_with(".fifo") {
            attributes.insert(QueueAttributeName::FifoQueue, "true".to_owned());
        }
        let attributes = (!attributes.is_empty()).then_some(attributes);
        let created = client.create_queue().queue_name(name).set_attributes(attributes).send();
        let created = block_on(created).expect("a queue");
        let url = created.queue_url().expect("a url").to_owned();
        Queue { name: name.to_owned(), url, client }
    }

    pub fn arn(&self) -> String {
        let asked = self.client.get_queue_attributes().queue_url(&self.url);
        let asked = asked.attribute_names(QueueAttributeName::QueueArn).send();
        let attributes = block_on(asked).expect("attributes").attributes.expect("some");
        attributes[&QueueAttributeName::QueueArn].clone()
    }

    /// Takes messages out of it until so many came, and whatever is behind them.
    pub fn drain(&self, at_least: usize) -> Vec<Message> {
        let end = Instant::now() + DEADLINE;
        let mut messages = Vec::new();
        block_on(async {
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
