//! SQS, SNS, Kinesis and S3, against the stand-ins of `services/aws`.

mod kinesis_source;
mod stand_ins;
