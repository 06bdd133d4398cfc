//! What a pipeline can promise, and what keeps it from promising more (P10).

use std::fmt;

use super::{DeadLetterStore, Guarantee, Ordering, Pipeline, exactly_once};
use crate::sources::Replay;

/// The guarantee of a pipeline, in words for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Given {
    pub delivery: Guarantee,
    /// Which messages keep their order.
    pub order: String,
    /// When a message may arrive twice.
    pub duplicates: String,
    /// The part that keeps the pipeline from giving more, and why. `None` if nothing does.
    pub weakest_link: Option<String>,
    /// What works but is probably not meant.
    pub warnings: Vec<String>,
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Guarantee::AtMostOnce => "at-most-once",
            Guarantee::AtLeastOnce => "at-least-once",
            Guarantee::ExactlyOnce => "exactly-once",
        })
    }
}

/// The guarantee of a pipeline: that of the weakest of its parts.
pub fn of(pipeline: &Pipeline) -> Given {
    let source = pipeline.source.config.traits();
    let mut losses = Vec::new();
    let mut conditions = Vec::new();
    match &source.replay {
        Replay::Yes => {}
        Replay::ByClient(condition) => {
            conditions.push(format!("source `{}`: {condition}", pipeline.source.kind));
        }
        Replay::No(reason) => losses.push(format!("source `{}`: {reason}", pipeline.source.kind)),
    }
    for sink in &pipeline.sinks {
        if let Some(reason) = sink.config.traits().not_durable {
            losses.push(format!("sink `{}`: {reason}", sink.name));
        }
    }
    if let DeadLetterStore::Sink(sink) = &pipeline.dead_letters.to
        && let Some(reason) = sink.config.traits().not_durable
    {
        losses.push(format!("dead letters in `{}`: {reason}", sink.kind));
    }
    let exactly_once = exactly_once::holds(pipeline);
    let delivery = match losses.is_empty() {
        true if exactly_once => Guarantee::ExactlyOnce,
        true => Guarantee::AtLeastOnce,
        false => Guarantee::AtMostOnce,
    };
    let weakest_link = losses.first().or(conditions.first()).cloned();
    Given {
        delivery,
        order: order(pipeline, source.unordered),
        duplicates: match exactly_once {
            true => "none, for those who read with `read_committed`".into(),
            false => duplicates(&source.replay).into(),
        },
        warnings: warnings(pipeline, &losses, source.unordered, source.partitions),
        weakest_link,
    }
}

/// P3.
fn order(pipeline: &Pipeline, unordered: Option<&str>) -> String {
    let kept = match (pipeline.ordering, unordered) {
        (Ordering::None, _) => return "none, as `ordering` says".into(),
        (_, Some(reason)) => return format!("none: source `{}`: {reason}", pipeline.source.kind),
        (Ordering::Partition, None) => "per partition of the source, in each sink",
        (Ordering::Key, None) => "per key, in each sink; without a key per partition of the source",
    };
    let unordered = unordered_sinks(pipeline);
    let none: Vec<String> =
        unordered.iter().map(|(name, reason)| format!("none in sink `{name}`: {reason}")).collect();
    let none = none.join("; ");
    match unordered.len() {
        0 => kept.into(),
        count if count == pipeline.sinks.len() => none,
        _ => format!("{kept}; {none}"),
    }
}

/// The sinks in which messages have no order, and why.
fn unordered_sinks(pipeline: &Pipeline) -> Vec<(&str, &'static str)> {
    let reason = |sink: &super::SinkSection| sink.config.traits().unordered;
    pipeline.sinks.iter().filter_map(|sink| Some((sink.name.as_str(), reason(sink)?))).collect()
}

fn duplicates(replay: &Replay) -> &'static str {
    match replay {
        Replay::Yes => "possible: after a crash what was not yet committed is read again",
        Replay::ByClient(_) => "possible: what a client sends again is another message",
        Replay::No(_) => "possible: what a sink took without our hearing of it is written again",
    }
}

fn warnings(
    pipeline: &Pipeline,
    losses: &[String],
    unordered: Option<&str>,
    partitions: Option<usize>,
) -> Vec<String> {
    let mut warnings: Vec<String> =
        losses.iter().map(|loss| format!("messages may be lost: {loss}")).collect();
    if let (Ordering::Partition, Some(lanes), Some(partitions)) =
        (pipeline.ordering, pipeline.settings.lanes, partitions)
        && lanes > partitions
    {
        warnings.push(format!(
            "{} of {lanes} lanes are idle: the source has {partitions} partition{}, each for one lane; with \
             `ordering = \"key\"` all lanes work",
            lanes - partitions,
            if partitions == 1 { "" } else { "s" },
        ));
    }
    let no_sink_has_one = unordered_sinks(pipeline).len() == pipeline.sinks.len();
    if (unordered.is_some() || no_sink_has_one) && pipeline.ordering != Ordering::None {
        warnings.push("`ordering` cannot be kept: write `ordering = \"none\"`".into());
    }
    if pipeline.sinks.iter().all(|sink| sink.common.route.is_some()) {
        warnings.push(
            "every sink has a `route`: messages for which no plugin names one are dead-lettered".into(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codecs::{Around, CODECS};
    use crate::config::document::Document;
    use crate::config::problem::Problem;
    use crate::config::{DeadLetters, DeadLettersCommon, Delivery, Retry, Settings, SinkCommon, SinkSection};
    use crate::config::{Environment, Reading, SourceCommon, SourceSection};
    use crate::sinks::{Sink, SinkConfig, SinkContext, SinkTraits};
    use crate::sources::{OpenSource, SourceConfig, SourceContext, SourceTraits};

    struct FakeSource(SourceTraits);

    impl SourceConfig for FakeSource {
        fn check(&self, _: &SourceContext, _: &mut Vec<Problem>) {}
        fn traits(&self) -> SourceTraits {
            self.0.clone()
        }
        fn open(self: Box<Self>, _: SourceContext) -> anyhow::Result<OpenSource> {
            anyhow::bail!("never opened")
        }
    }

    #[derive(Default)]
    struct FakeSink {
        not_durable: Option<&'static str>,
        unordered: Option<&'static str>,
    }

    impl SinkConfig for FakeSink {
        fn check(&self, _: &SinkContext, _: &mut Vec<Problem>) {}
        fn traits(&self) -> SinkTraits {
            SinkTraits {
                not_durable: self.not_durable,
                unordered: self.unordered,
                ..SinkTraits::with_batch(1)
            }
        }
        fn open(self: Box<Self>, _: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
            anyhow::bail!("never opened")
        }
    }

    fn sink(name: &str, not_durable: Option<&'static str>) -> SinkSection {
        fake_sink(name, FakeSink { not_durable, unordered: None })
    }

    fn fake_sink(name: &str, config: FakeSink) -> SinkSection {
        SinkSection {
            kind: "fake",
            name: name.into(),
            config: Box::new(config),
            codec: (CODECS[0].encoder)(serde_json::json!({}), Around::nothing())
                .expect("it needs no settings"),
            common: SinkCommon::default(),
        }
    }

    fn pipeline(replay: Replay, sinks: Vec<SinkSection>) -> Pipeline {
        let traits = SourceTraits { replay, unordered: None, partitions: Some(1) };
        Pipeline {
            name: "p".into(),
            file: "p.toml".into(),
            base: ".".into(),
            data_dir: ".millstream/p".into(),
            ordering: Ordering::Partition,
            delivery: Delivery::AtLeastOnce,
            require: None,
            source: SourceSection {
                kind: "fake",
                config: Box::new(FakeSource(traits)),
                codec: (CODECS[0].decoder)(serde_json::json!({}), Around::nothing())
                    .expect("it needs no settings"),
                common: SourceCommon::default(),
                natives: Vec::new(),
            },
            plugins: Vec::new(),
            loaded_plugins: Vec::new(),
            read: Reading::of(&Document::read("p.toml".as_ref(), String::new(), &Environment::given(&[]))),
            sinks,
            retry: Retry::default(),
            dead_letters: DeadLetters { to: DeadLetterStore::Embedded, common: DeadLettersCommon::default() },
            tracing: None,
            settings: Settings::default(),
            tests: Vec::new(),
        }
    }

    #[test]
    fn p10_the_weakest_part_decides() {
        let given = of(&pipeline(Replay::Yes, vec![sink("a", None), sink("b", None)]));
        assert_eq!((given.delivery, given.weakest_link), (Guarantee::AtLeastOnce, None));
        assert_eq!(given.warnings, [""; 0]);

        let given = of(&pipeline(Replay::ByClient("if it posts again"), vec![sink("a", None)]));
        assert_eq!(given.delivery, Guarantee::AtLeastOnce);
        assert_eq!(given.weakest_link.as_deref(), Some("source `fake`: if it posts again"));

        let given = of(&pipeline(Replay::Yes, vec![sink("a", None), sink("b", Some("nobody knows"))]));
        assert_eq!(given.delivery, Guarantee::AtMostOnce);
        assert_eq!(given.weakest_link.as_deref(), Some("sink `b`: nobody knows"));
        assert_eq!(given.warnings, ["messages may be lost: sink `b`: nobody knows"]);

        let given = of(&pipeline(Replay::No("it is gone"), vec![sink("a", Some("nobody knows"))]));
        assert_eq!(given.weakest_link.as_deref(), Some("source `fake`: it is gone"));
        assert_eq!(given.warnings.len(), 2);

        let mut with_dead_letters = pipeline(Replay::Yes, vec![sink("a", None)]);
        with_dead_letters.dead_letters.to = DeadLetterStore::Sink(sink("d", Some("nobody knows")));
        assert_eq!(of(&with_dead_letters).delivery, Guarantee::AtMostOnce);
    }

    #[test]
    fn p3_order_is_stated_with_what_is_in_its_way() {
        let mut with_lanes = pipeline(Replay::Yes, vec![sink("a", None)]);
        with_lanes.settings.lanes = Some(4);
        let given = of(&with_lanes);
        assert_eq!(given.order, "per partition of the source, in each sink");
        assert!(given.warnings[0].starts_with("3 of 4 lanes are idle"), "{:?}", given.warnings);
        with_lanes.ordering = Ordering::Key;
        assert_eq!(of(&with_lanes).warnings, [""; 0]);

        let traits =
            SourceTraits { replay: Replay::Yes, unordered: Some("a standard queue"), partitions: None };
        with_lanes.source.config = Box::new(FakeSource(traits));
        let given = of(&with_lanes);
        assert_eq!(given.order, "none: source `fake`: a standard queue");
        assert_eq!(given.warnings, ["`ordering` cannot be kept: write `ordering = \"none\"`"]);
        with_lanes.ordering = Ordering::None;
        assert_eq!(of(&with_lanes).warnings, [""; 0]);
    }

    #[test]
    fn p3_a_sink_without_order_is_named() {
        let queue =
            |name| fake_sink(name, FakeSink { unordered: Some("a standard queue"), ..FakeSink::default() });
        let mut mixed = pipeline(Replay::Yes, vec![sink("a", None), queue("q")]);
        let given = of(&mixed);
        assert_eq!(
            given.order,
            "per partition of the source, in each sink; none in sink `q`: a standard queue"
        );
        assert_eq!(given.warnings, [""; 0]);

        mixed.sinks = vec![queue("p"), queue("q")];
        let given = of(&mixed);
        assert_eq!(given.order, "none in sink `p`: a standard queue; none in sink `q`: a standard queue");
        assert_eq!(given.warnings, ["`ordering` cannot be kept: write `ordering = \"none\"`"]);
        mixed.ordering = Ordering::None;
        assert_eq!(of(&mixed).warnings, [""; 0]);
    }
}
