//! SQS, SNS, Kinesis and S3, against the stand-ins of `services/aws`.

mod around;
mod claim_check;
mod dead_letter_queue;
mod fanout;
mod faults;
mod kinesis_sink;
mod kinesis_source;
mod notifications;
mod pipelines;
mod proxy;
mod queues;
mod sinks;
mod sns_sink;
mod sqs_fake;
mod sqs_faults;
mod sqs_kills;
mod sqs_members;
mod sqs_sends;
mod sqs_sink;
mod sqs_source;
mod stand_ins;
