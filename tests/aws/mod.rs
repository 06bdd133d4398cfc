//! SQS, SNS, Kinesis and S3, against the stand-ins of `services/aws`.

mod kinesis_sink;
mod proxy;
mod queues;
mod sinks;
mod sns_sink;
mod sqs_sink;
mod stand_ins;
