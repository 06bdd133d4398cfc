//! Names routes for messages by what they hold; sinks take messages by their routes.

mod condition;

use millstream_sdk::pointer::Pointers;
use millstream_sdk::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

use condition::{Condition, ConditionConfig};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// They are tried in order.
    rules: Vec<RuleConfig>,
    /// Routes of a message that no rule matches. Without any it passes unchanged, to the sinks
    /// without a route.
    #[serde(default)]
    default: Vec<String>,
    /// Which of the rules that match a message count.
    #[serde(default, rename = "match")]
    matching: Matching,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Matching {
    /// All: the message gets the routes of each.
    #[default]
    All,
    /// The first.
    First,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    /// Conditions, all of which must hold.
    when: Vec<ConditionConfig>,
    /// Routes that the message gets then.
    routes: Vec<String>,
}

pub struct Route {
    rules: Vec<Rule>,
    default: Vec<String>,
    matching: Matching,
    /// All pointers of all conditions.
    pointers: Pointers,
}

struct Rule {
    when: Vec<Condition>,
    routes: Vec<String>,
}

impl Plugin for Route {
    type Config = Config;
    const NAME: &'static str = "route";
    const SUMMARY: &'static str = "Names routes for messages by JSON pointers, headers and keys.";
    const READS: Reads = Reads::PAYLOAD.and(Reads::KEY).and(Reads::HEADERS);

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.rules.is_empty() && config.default.is_empty() {
            return Err(ConfigError::at("/rules", "give at least one rule, or a default"));
        }
        let mut pointers = Pointers::default();
        let mut rules = Vec::with_capacity(config.rules.len());
        for (index, RuleConfig { when, routes }) in config.rules.into_iter().enumerate() {
            let field = format!("/rules/{index}");
            if when.is_empty() {
                let message = "give at least one condition; `default` is for messages that no rule matches";
                return Err(ConfigError::at(format!("{field}/when"), message));
            }
            if routes.is_empty() {
                return Err(ConfigError::at(format!("{field}/routes"), "name at least one route"));
            }
            check_names(&routes, &format!("{field}/routes"))?;
            let conditions = when.into_iter().enumerate().map(|(at, condition)| {
                condition.check(&mut pointers).map_err(|(name, message)| {
                    let slash = if name.is_empty() { "" } else { "/" };
                    ConfigError::at(format!("{field}/when/{at}{slash}{name}"), message)
                })
            });
            rules.push(Rule { when: conditions.collect::<Result<_, _>>()?, routes });
        }
        check_names(&config.default, "/default")?;
        Ok(Route { rules, default: config.default, matching: config.matching, pointers })
    }
}

fn check_names(routes: &[String], field: &str) -> Result<(), ConfigError> {
    match routes.iter().position(|route| route.is_empty()) {
        Some(index) => Err(ConfigError::at(format!("{field}/{index}"), "a route has a name")),
        None => Ok(()),
    }
}

impl Process for Route {
    fn process(&mut self, message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure> {
        let mut values = Vec::new();
        if let Some(payload) = message.payload() {
            let found = self.pointers.find(payload, |pointer, text| values.push((pointer, text)));
            // What is not JSON has no fields: it goes where a message without them goes.
            if found.is_err() {
                values.clear();
            }
        }

        let mut routes: Vec<&str> = Vec::new();
        for rule in &self.rules {
            if !rule.when.iter().all(|condition| condition.holds(message, &values)) {
                continue;
            }
            for route in &rule.routes {
                if !routes.contains(&route.as_str()) {
                    routes.push(route);
                }
            }
            if matches!(self.matching, Matching::First) {
                break;
            }
        }
        if !routes.is_empty() {
            out.emit().routes(&routes);
        } else if !self.default.is_empty() {
            out.emit().routes(&self.default);
        } else {
            return Ok(Verdict::Pass);
        }
        Ok(Verdict::Emit)
    }
}

millstream_sdk::export!(Route);

#[cfg(test)]
mod tests;
