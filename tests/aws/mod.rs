//! SQS, SNS, Kinesis and S3, against the stand-ins of `services/aws`.

mod sqs_faults;
mod sqs_kills;
mod sqs_queue;
mod sqs_source;
mod stand_ins;
