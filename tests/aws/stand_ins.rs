//! The stand-ins themselves: each does what the tests ask of it.

use crate::services::aws::{StandIn, python};

#[test]
fn each_answers_the_sdk_and_boto3() {
    for sqs in [StandIn::fauxqs(), StandIn::moto()] {
        let name = "stand-in";
        let printed =
            python(sqs, "print(client('sqs').create_queue(QueueName=sys.argv[1])['QueueUrl'])", &[name]);
        assert!(printed.trim().ends_with(name), "{printed}");
    }
    let created = python(
        StandIn::kinesis(),
        "client('kinesis').create_stream(StreamName='s', ShardCount=2)\n\
         client('kinesis').get_waiter('stream_exists').wait(StreamName='s')\n\
         print(len(client('kinesis').list_shards(StreamName='s')['Shards']))",
        &[],
    );
    assert_eq!(created.trim(), "2");
    let tables = python(StandIn::dynalite(), "print(client('dynamodb').list_tables()['TableNames'])", &[]);
    assert!(tables.starts_with('['), "{tables}");
}
