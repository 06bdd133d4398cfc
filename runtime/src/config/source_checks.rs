//! `validate` of `[source]`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use millstream_schema::config::{default_formats, default_max_violations};
use millstream_schema::{Check as Schema, Config as SchemaConfig, Draft};
use millstream_signature::{Check as Signature, Config as SignatureConfig};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::problem::Problem;
use crate::pipeline::native::Natives;
use crate::pipeline::native::schema::SchemaCheck;
use crate::pipeline::native::signature::SignatureCheck;

/// What every message of a source must be, or it becomes a dead letter. The same as the plugins
/// `verify-signature` and `validate-schema`, but in the host: faster, without their limits of time.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Validate {
    /// The HMAC that a header must hold of the payload; checked first.
    pub signature: Option<SignatureConfig>,
    /// The JSON Schema of the payload: an object, or its JSON text as `{ file = "order.schema.json" }`
    /// gives it.
    pub schema: Option<Value>,
    /// Schemas that a `$ref` may lead to, by the URI that it says, each as `schema` is given. Nothing
    /// is fetched: a `$ref` to any other document is an error.
    #[serde(default)]
    pub references: BTreeMap<String, Value>,
    /// The draft to read the schema by, in place of the one that its `$schema` names; without
    /// either it is `2020-12`.
    #[serde(default)]
    pub draft: Option<Draft>,
    /// Whether `format` is checked, such as `date-time`, `email` and `uuid`.
    #[serde(default = "default_formats")]
    pub formats: bool,
    /// How many violations of one message are told; of the others only the number.
    #[serde(default = "default_max_violations")]
    pub max_violations: NonZeroU32,
    /// Whether violations quote the values that break the schema. What they say goes to logs, so
    /// leave this off for personal data.
    #[serde(default)]
    pub show_values: bool,
}

/// What is done to each message before it is decoded, and what after that.
#[derive(Default)]
pub struct Checks {
    /// Of the bytes as they came.
    pub before: Natives,
    /// Of what they mean.
    pub after: Natives,
}

impl Validate {
    /// The steps that it asks for.
    ///
    /// # Errors
    /// What is wrong with it, each with its place within `validate`.
    pub fn checks(self) -> Result<Checks, Vec<Problem>> {
        let Validate { signature, schema, references, draft, formats, max_violations, show_values } = self;
        let (mut checks, mut problems) = (Checks::default(), Vec::new());
        if signature.is_none() && schema.is_none() {
            let problem = Problem::new("", "it is not said what to validate messages by");
            problems.push(
                problem.help(
                    "schema = { file = \"...\" }, or signature = { header = \"...\", secret = \"...\" }",
                ),
            );
        }
        if let Some(config) = signature {
            match Signature::new(config) {
                Ok(check) => checks.before.push(Arc::new(SignatureCheck(Arc::new(check)))),
                Err(mistake) => {
                    problems.push(Problem::new(format!("/signature{}", mistake.field), mistake.message));
                }
            }
        }
        if let Some(schema) = schema {
            let config = SchemaConfig { schema, references, draft, formats, max_violations, show_values };
            match Schema::new(config) {
                Ok(check) => checks.after.push(Arc::new(SchemaCheck(Arc::new(check)))),
                Err(mistake) => problems.push(Problem::new(mistake.field, mistake.message)),
            }
        } else if !references.is_empty() {
            problems.push(Problem::new("/references", "there is no `schema` that could refer to them"));
        }
        if problems.is_empty() { Ok(checks) } else { Err(problems) }
    }
}
