//! `millstream aws fanout`.

use super::around::run;
use super::queues::Queue;
use super::sinks::unique;
use crate::services::aws::{StandIn, python};
use crate::support::Folder;

#[test]
fn subscriptions_become_as_declared_and_stay_so() {
    for stand_in in [StandIn::fauxqs(), StandIn::moto()] {
        let (all, large, other) =
            (Queue::standard(stand_in), Queue::standard(stand_in), Queue::standard(stand_in));
        let topic = "print(client('sns').create_topic(Name=sys.argv[1])['TopicArn'])";
        let topic = python(stand_in, topic, &[&unique("topic")]).trim().to_owned();
        let subscribe = "client('sns').subscribe(TopicArn=sys.argv[1], Protocol='sqs', Endpoint=sys.argv[2])";
        python(stand_in, subscribe, &[&topic, &other.arn()]);
        let folder = Folder::new();
        let declare = |price: u32| {
            folder.write(
                "fanout.toml",
                &format!(
                    "name = \"fanout\"\n[source]\ntype = \"stdin\"\n\
                     [[sink]]\ntype = \"sns\"\ntopic = \"{topic}\"\n{}\n\
                     [[sink.subscriptions]]\nqueue = \"{}\"\nraw = false\n\
                     [[sink.subscriptions]]\nqueue = \"{}\"\nfilter = {{ price = [{{ numeric = [\">=\", {price}] }}] }}\n",
                    stand_in.toml(),
                    all.name,
                    large.name,
                ),
            )
        };
        let file = declare(100).display().to_string();
        let fanout = |more: &[&str]| run(&[&["aws", "fanout", &file], more].concat());

        let (done, out, err) = fanout(&["--dry-run"]);
        assert!(!done && err.contains("4 changes would be made; nothing was"), "{out}{err}");
        for line in [
            format!("+ {}: subscribe", all.name),
            format!("+ {}: subscribe", large.name),
            format!("~ {}: let the topic send to it", all.name),
            format!("! {}: is subscribed and not declared", other.arn()),
        ] {
            assert!(out.contains(&line), "{line}\n{out}");
        }
        let (done, out, err) = fanout(&[]);
        assert!(done && err.contains("4 changes were made"), "{out}{err}");
        for arguments in [&["--dry-run"][..], &[]] {
            let (done, out, err) = fanout(arguments);
            assert!(done && err.contains("everything is as declared"), "{out}{err}");
            assert!(out.contains(&format!("= {}: as declared", large.name)), "{out}");
        }

        let publish = "for price in [50, 150]: client('sns').publish(TopicArn=sys.argv[1], Message=json.dumps({'number': price}),\n\
                       \x20   MessageAttributes={'price': {'DataType': 'Number', 'StringValue': str(price)}})";
        python(stand_in, publish, &[&topic]);
        assert_eq!(large.numbers(1), [150]);
        let enveloped = all.drain(2);
        assert!(enveloped.iter().all(|message| message.body().unwrap_or_default().contains("\"TopicArn\"")));

        declare(10);
        let (done, out, err) = fanout(&[]);
        assert!(done && err.contains("1 changes were made"), "{out}{err}");
        assert!(out.contains(&format!("~ {}: FilterPolicy from ", large.name)), "{out}");
        python(stand_in, publish, &[&topic]);
        assert_eq!(large.drain(2).len(), 2);
    }
}

#[test]
fn what_declares_nothing_is_told_what_to_write() {
    let folder = Folder::new();
    let file =
        folder.write("a.toml", "name = \"a\"\n[source]\ntype = \"stdin\"\n[[sink]]\ntype = \"stdout\"\n");
    let (done, _, err) = run(&["aws", "fanout", &file.display().to_string()]);
    assert!(!done && err.contains("[[sink.subscriptions]]"), "{err}");
}
