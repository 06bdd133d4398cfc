//! Which dead letters are meant.

use rusqlite::ToSql;
use serde::{Deserialize, Serialize};

/// Dead letters that fulfil everything that is set; all of them if nothing is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// One of these ids; any if empty.
    pub ids: Vec<String>,
    /// `source:STEP`, `route`, `plugin:STEP`, `sink:NAME`, or all of a kind: `source`, `plugin`, `sink`.
    pub stage: Option<String>,
    /// Step, name or SHA-256 of the plugin.
    pub plugin: Option<String>,
    /// The code, or a part of the reason, without regard to ASCII case.
    pub reason: Option<String>,
    /// Given up then or later, milliseconds since 1970-01-01T00:00:00Z.
    pub since_ms: Option<i64>,
    /// Given up before.
    pub until_ms: Option<i64>,
    /// Name of the source it was read from.
    pub source: Option<String>,
}

impl Filter {
    pub fn of_id(id: &str) -> Filter {
        Filter { ids: vec![id.to_owned()], ..Filter::default() }
    }

    /// Conditions on a row of `dead_letters`, with the values of their parameters in order.
    pub(super) fn sql(&self) -> (String, Vec<Box<dyn ToSql>>) {
        let mut conditions = Conditions::default();
        if !self.ids.is_empty() {
            let ids = serde_json::Value::from(self.ids.clone()).to_string();
            conditions.add("id IN (SELECT value FROM json_each(?))", [ids]);
        }
        if let Some(stage) = &self.stage {
            conditions.add("(stage = ? OR stage GLOB ?)", [stage.clone(), kind_pattern(stage)]);
        }
        if let Some(plugin) = &self.plugin {
            let values = [plugin.clone(), plugin.clone(), plugin.clone()];
            conditions.add("(plugin_step = ? OR plugin_name = ? OR plugin_sha256 = ?)", values);
        }
        if let Some(reason) = &self.reason {
            let reason = reason.to_ascii_lowercase();
            conditions.add("(lower(code) = ? OR instr(lower(reason), ?) > 0)", [reason.clone(), reason]);
        }
        if let Some(since) = self.since_ms {
            conditions.add("failed_at_ms >= ?", [since]);
        }
        if let Some(until) = self.until_ms {
            conditions.add("failed_at_ms < ?", [until]);
        }
        if let Some(source) = &self.source {
            conditions.add("source = ?", [source.clone()]);
        }
        (conditions.sql, conditions.values)
    }
}

#[derive(Default)]
struct Conditions {
    sql: String,
    values: Vec<Box<dyn ToSql>>,
}

impl Conditions {
    fn add<T: ToSql + 'static, const N: usize>(&mut self, condition: &str, values: [T; N]) {
        self.sql.push_str(" AND ");
        self.sql.push_str(condition);
        self.values.extend(values.map(|value| Box::new(value) as Box<dyn ToSql>));
    }
}

/// `plugin` stands for every `plugin:...`; a name is never taken as a pattern.
fn kind_pattern(stage: &str) -> String {
    match stage {
        "source" | "plugin" | "sink" => format!("{stage}:*"),
        _ => String::new(),
    }
}
