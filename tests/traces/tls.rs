//! TLS to the receiver, on both sides.

use super::{one, post, runtime, start, stop, tracing};
use crate::services::certificates::{authority, certificate};
use crate::services::otlp::Receiver;
use crate::support::Folder;

#[test]
fn spans_go_over_tls_to_who_is_trusted() {
    let (folder, runtime) = (Folder::new(), runtime());
    let ours = authority("authority");
    folder.write("ca.pem", &ours.pem());
    folder.write("other.pem", &authority("stranger").pem());
    for name in ["receiver", "millstream"] {
        let (pem, key) = certificate(name, &ours);
        folder.write(&format!("{name}.pem"), &pem);
        folder.write(&format!("{name}.key"), &key);
    }
    let path = |name: &str| folder.path(name);
    let receiver = Receiver::start_with_tls(path("receiver.pem"), path("receiver.key"), path("ca.pem"));
    for (name, ca, received) in [("trusting", "ca.pem", true), ("suspicious", "other.pem", false)] {
        let tls = format!(
            "ratio = 1.0\ntimeout = \"2s\"\n\
             tls = {{ ca_file = \"{ca}\", cert_file = \"millstream.pem\", key_file = \"millstream.key\" }}"
        );
        let rest = format!("{}[[sink]]\ntype = \"drop\"\n", tracing(&receiver, &tls));
        let (mut running, url) = start(&folder, name, &rest);
        // Whatever becomes of its span.
        assert_eq!(post(&runtime, &url, &[], "{}"), 200);
        stop(&mut running);
        let spans = receiver.spans();
        if received {
            one(&spans, name, &format!("receive /{name}"));
        } else {
            assert!(spans.iter().all(|span| !span.name.contains(name)), "{spans:#?}");
            let log = running.log();
            assert!(log.contains("certificate"), "{log}");
        }
    }
}
