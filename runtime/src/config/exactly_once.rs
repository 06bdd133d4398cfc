//! What is in the way of `delivery = "exactly-once"` (P10).

use std::time::Duration;

use super::{DeadLetterStore, Delivery, OnUnavailable, Pipeline, Retry};
use crate::pipeline::retry;
use crate::sinks::InTransactions;

/// Whether the pipeline delivers exactly once: it says so, and nothing is in the way.
pub fn holds(pipeline: &Pipeline) -> bool {
    pipeline.delivery == Delivery::ExactlyOnce && obstacles(pipeline).is_empty()
}

/// What is in the way, and the remedy.
pub fn obstacles(pipeline: &Pipeline) -> Vec<(String, String)> {
    let mut obstacles = Vec::new();
    let mut add = |reason: String, help: &str| obstacles.push((reason, help.to_owned()));
    let source = pipeline.source.config.transactional();
    if source.is_none() {
        let reason =
            format!("the positions of source `{}` cannot be part of a transaction", pipeline.source.kind);
        add(reason, "only the source `kafka` can");
    }
    let dead_letters = match &pipeline.dead_letters.to {
        DeadLetterStore::Embedded => {
            let reason = "the dead letters go to the data folder, which has no part in a transaction";
            add(reason.to_owned(), "[dead_letters]\ntype = \"kafka\", on the same cluster");
            None
        }
        DeadLetterStore::Sink(sink) => Some(("[dead_letters]".to_owned(), sink)),
    };
    let mut first: Option<String> = None;
    let sinks = pipeline.sinks.iter().map(|sink| (format!("sink `{}`", sink.name), sink));
    for (what, sink) in sinks.chain(dead_letters) {
        match (sink.config.transactional(), &source) {
            (None, _) => {
                add(
                    format!("{what}, of type `{}`, cannot write in a transaction", sink.kind),
                    "only `kafka` can",
                );
            }
            (Some(InTransactions { cluster, .. }), Some(source)) if cluster != *source => {
                let help = "write the same `brokers` in the same order; a transaction is of one cluster";
                add(format!("{what} is on {cluster}, the source on {source}"), help);
            }
            (Some(InTransactions { settings, .. }), _)
                if *first.get_or_insert(settings.clone()) != settings =>
            {
                let help = "the same `partitioner`, `compression`, `security` and `librdkafka` everywhere";
                add(
                    format!("{what} needs another producer than the first sink, and a transaction has one"),
                    help,
                );
            }
            _ => {}
        }
        if sink.common.on_unavailable == OnUnavailable::DeadLetter {
            let help = "on_unavailable = \"wait\"";
            add(format!("{what} gives up messages while the cluster is not there, dead letters too"), help);
        }
    }
    if let Some(plugin) = pipeline.plugins.iter().find(|plugin| plugin.grants.spaces().next().is_some()) {
        let reason = format!("plugin `{}` keeps `state`, which is not part of the transaction", plugin.step);
        add(reason, "take the grant away");
    }
    let (timeout, longest) = (pipeline.settings.transaction_timeout.0, longest_retry(&pipeline.retry));
    if timeout <= longest {
        let reason = format!(
            "a message that a plugin sees again may take {}, and `transaction_timeout` is {}",
            humantime::format_duration(longest),
            pipeline.settings.transaction_timeout
        );
        add(reason, "a longer `transaction_timeout`, or fewer attempts and shorter delays in [retry]");
    }
    obstacles
}

/// How long all attempts of a message may take, waiting alone.
fn longest_retry(settings: &Retry) -> Duration {
    (1..settings.max_attempts).map(|attempt| retry::delay(settings, attempt - 1, 1.0)).sum()
}
