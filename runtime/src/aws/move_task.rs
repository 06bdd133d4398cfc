//! Message move tasks: SQS itself takes messages of a dead-letter queue back to where they came from.
//!
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-configure-dead-letter-queue-redrive.html>

use std::time::Duration;

use anyhow::{Context, bail};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;

use super::{Connection, DeadLetterQueue, Failure, queue};

/// The most that a task can be told to move in a second:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_StartMessageMoveTask.html>.
pub const MAX_PER_SECOND: i32 = 500;

const ASKED_EVERY: Duration = Duration::from_secs(1);

/// What moves the messages of a queue.
pub struct Mover {
    client: Client,
    arn: String,
    name: String,
}

/// How far a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `RUNNING`, `COMPLETED`, `CANCELLING`, `CANCELLED` or `FAILED`.
    pub status: String,
    pub moved: i64,
    /// How many there were to move when it began.
    pub of: Option<i64>,
    pub failure: Option<String>,
    /// By which it can be cancelled, while it runs.
    handle: Option<String>,
}

impl Mover {
    /// # Errors
    /// There is no such queue, or it cannot be asked.
    pub async fn open(of: &DeadLetterQueue) -> anyhow::Result<Mover> {
        let connection = Connection::new(of.access.clone(), &of.base, Client::new);
        let client = connection.client().await?.clone();
        let url = queue::url(&client, &of.queue).await?;
        let request = client.get_queue_attributes().queue_url(&url);
        let attributes = request.attribute_names(QueueAttributeName::QueueArn).send().await;
        let attributes = attributes.map_err(|error| Failure::of("GetQueueAttributes", &error))?;
        let arn = attributes.attributes.and_then(|mut all| all.remove(&QueueAttributeName::QueueArn));
        let arn = arn.with_context(|| format!("the ARN of queue {} is not told", of.queue))?;
        Ok(Mover { client, arn, name: queue::name(&of.queue).to_owned() })
    }

    /// Starts a task, to where the messages came from or to the queue with the ARN `to`.
    ///
    /// # Errors
    /// SQS does not allow it: the queue is not the dead-letter queue of another, say.
    pub async fn start(&self, to: Option<&str>, per_second: Option<i32>) -> anyhow::Result<()> {
        let request = self.client.start_message_move_task().source_arn(&self.arn);
        let request = request.set_destination_arn(to.map(str::to_owned));
        let started = request.set_max_number_of_messages_per_second(per_second).send().await;
        started.map_err(|error| Failure::of(&format!("StartMessageMoveTask of {}", self.name), &error))?;
        Ok(())
    }

    /// The task that was started last, if there was any lately.
    ///
    /// # Errors
    /// SQS cannot be asked.
    pub async fn progress(&self) -> anyhow::Result<Option<Progress>> {
        let asked = self.client.list_message_move_tasks().source_arn(&self.arn).max_results(1).send().await;
        let asked =
            asked.map_err(|error| Failure::of(&format!("ListMessageMoveTasks of {}", self.name), &error))?;
        Ok(asked.results.unwrap_or_default().into_iter().next().map(|task| Progress {
            status: task.status.unwrap_or_default(),
            moved: task.approximate_number_of_messages_moved,
            of: task.approximate_number_of_messages_to_move,
            failure: task.failure_reason,
            handle: task.task_handle,
        }))
    }

    /// Tells `each` how far it is until the task has ended.
    ///
    /// # Errors
    /// It failed or was cancelled, or SQS cannot be asked; the task then goes on.
    pub async fn follow(&self, mut each: impl FnMut(&Progress)) -> anyhow::Result<Progress> {
        loop {
            let progress = self.progress().await?.context("SQS knows of no such task")?;
            each(&progress);
            match progress.status.as_str() {
                "RUNNING" | "CANCELLING" => tokio::time::sleep(ASKED_EVERY).await,
                "COMPLETED" => return Ok(progress),
                status => bail!(
                    "the task ended as {status} after {} messages{}",
                    progress.moved,
                    progress.failure.map(|why| format!(": {why}")).unwrap_or_default()
                ),
            }
        }
    }

    /// Cancels the task that runs; what was moved stays moved.
    ///
    /// # Errors
    /// None runs, or SQS cannot be asked.
    pub async fn cancel(&self) -> anyhow::Result<()> {
        let handle = self.progress().await?.and_then(|progress| progress.handle);
        let handle = handle.with_context(|| format!("no task moves messages of {}", self.name))?;
        let cancelled = self.client.cancel_message_move_task().task_handle(handle).send().await;
        cancelled.map_err(|error| Failure::of("CancelMessageMoveTask", &error))?;
        Ok(())
    }
}
