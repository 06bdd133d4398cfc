//! A plugin that misbehaves in every way the host must survive (P4). It speaks the contract
//! directly, for the SDK would not let it.
//!
//! Its configuration is `{ "mode": MODE, "trigger": TEXT, "amount": N }`. It acts on messages whose
//! payload contains the trigger and passes all others.

mod misdeeds;

use std::cell::RefCell;
use std::collections::HashMap;

use millstream_sdk::bindings::exports::millstream::plugin::processor::Guest;
use millstream_sdk::bindings::millstream::plugin::types::{
    Batch, ConfigError, Description, Outcome, Reads, Reason,
};
use schemars::JsonSchema;
use serde::Deserialize;

pub struct Hostile;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    mode: Mode,
    /// Text in the payload of the messages that it acts on. Empty text is in every payload.
    #[serde(default)]
    trigger: String,
    /// For `slow`: about how many milliseconds a message takes (a million turns of a loop each).
    /// For `retry-n`: how often each payload is put off. For `leak`: how many messages it forgets
    /// before it keeps what it was given.
    #[serde(default)]
    amount: u32,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Never returns.
    Loop,
    /// Takes memory without end.
    Grow,
    /// Calls itself without end.
    Recurse,
    /// Executes `unreachable`.
    Trap,
    /// Returns a payload beyond both arenas.
    IndexOutOfRange,
    /// Returns a payload whose end wraps around in 32 bits.
    IndexWrap,
    /// Forgets the last verdict of the batch.
    TooFewVerdicts,
    /// Returns 100 MiB for one message.
    HugeOutput,
    /// Rejects with a text that is not UTF-8.
    BadUtf8,
    /// Logs without end.
    LogForever,
    /// Takes `amount` milliseconds, about.
    Slow,
    /// Puts each payload off `amount` times, then passes it.
    RetryN,
    /// Works for `amount` messages, then keeps 4 KiB of each.
    Leak,
    /// Executes `unreachable` as soon as it is configured.
    TrapInConfigure,
    /// Never has its configuration.
    LoopInConfigure,
    /// Takes memory without end when it is configured.
    GrowInConfigure,
    /// Calls itself without end when it is configured.
    RecurseInConfigure,
}

struct State {
    config: Config,
    /// How often each payload has been put off.
    put_off: HashMap<Vec<u8>, u32>,
    /// Messages that it has acted on.
    seen: u32,
    kept: Vec<Vec<u8>>,
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

impl Guest for Hostile {
    fn describe() -> Description {
        Description {
            name: "hostile".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "Misbehaves as it is told.".to_owned(),
            reads: Reads::PAYLOAD,
            config_schema: schemars::schema_for!(Config).as_value().to_string(),
        }
    }

    fn configure(config: String) -> Result<(), ConfigError> {
        let config: Config = serde_json::from_str(&config)
            .map_err(|error| ConfigError { field: String::new(), message: error.to_string() })?;
        match config.mode {
            Mode::TrapInConfigure => misdeeds::trap(),
            Mode::LoopInConfigure => misdeeds::loop_forever(),
            Mode::GrowInConfigure => misdeeds::grow(),
            Mode::RecurseInConfigure => misdeeds::recurse(),
            _ => {}
        }
        STATE.set(Some(State { config, put_off: HashMap::new(), seen: 0, kept: Vec::new() }));
        Ok(())
    }

    fn process(batch: Batch) -> Outcome {
        STATE.with_borrow_mut(|state| {
            let state = state.as_mut().expect("the host calls configure before process");
            let mut outcome = Outcome {
                verdicts: Vec::new(),
                arena: Vec::new(),
                emitted: Vec::new(),
                headers: Vec::new(),
                timestamps: Vec::new(),
                routes: Vec::new(),
                reasons: Vec::new(),
            };
            let mut forget_one = false;
            for row in 0..batch.rows {
                let payload = payload(&batch, row as usize);
                let verdict = match contains(payload, state.config.trigger.as_bytes()) {
                    true => state.act(row, payload, &batch, &mut outcome, &mut forget_one),
                    false => PASS,
                };
                outcome.verdicts.push(verdict);
            }
            if forget_one {
                outcome.verdicts.pop();
            }
            outcome
        })
    }
}

#[cfg(target_arch = "wasm32")]
millstream_sdk::bindings::export!(Hostile with_types_in millstream_sdk::bindings);

// See `plugin-sdk/wit/plugin.wit`.
const NONE: u32 = 0xFFFF_FFFE;
const AS_PARENT: u32 = 0xFFFF_FFFF;
const PASS: u8 = 0;
const EMIT: u8 = 2;
const REJECT: u8 = 3;
const RETRY: u8 = 4;

impl State {
    fn act(
        &mut self,
        row: u32,
        payload: &[u8],
        batch: &Batch,
        outcome: &mut Outcome,
        forget_one: &mut bool,
    ) -> u8 {
        let mut emit = |address: u32, len: u32| {
            outcome.emitted.extend([row, address, len, AS_PARENT, 0, 0, 0, AS_PARENT]);
            EMIT
        };
        match self.config.mode {
            Mode::Loop | Mode::LoopInConfigure => misdeeds::loop_forever(),
            Mode::Grow | Mode::GrowInConfigure => misdeeds::grow(),
            Mode::Recurse | Mode::RecurseInConfigure => misdeeds::recurse(),
            Mode::Trap | Mode::TrapInConfigure => misdeeds::trap(),
            Mode::Leak => {
                self.seen += 1;
                if self.seen > self.config.amount {
                    self.kept.push(vec![1; 4 << 10]);
                }
                PASS
            }
            Mode::LogForever => misdeeds::log_forever(row),
            Mode::IndexOutOfRange => emit(batch.arena.len() as u32, 1),
            Mode::IndexWrap => emit(0xFFFF_FF00, 0x200),
            Mode::TooFewVerdicts => {
                *forget_one = true;
                PASS
            }
            Mode::HugeOutput => {
                let len = 100 << 20;
                emit(batch.arena.len() as u32, len);
                outcome.arena.resize(len as usize, b'x');
                EMIT
            }
            Mode::BadUtf8 => {
                let reason = Reason { row, code: "bad-utf8".to_owned(), text: misdeeds::bad_utf8() };
                outcome.reasons.push(reason);
                REJECT
            }
            Mode::Slow => {
                misdeeds::burn(self.config.amount);
                PASS
            }
            Mode::RetryN => {
                let times = self.put_off.entry(payload.to_vec()).or_default();
                if *times == self.config.amount {
                    return PASS;
                }
                *times += 1;
                let text = format!("put off {times} of {} times", self.config.amount);
                outcome.reasons.push(Reason { row, code: "put-off".to_owned(), text });
                RETRY
            }
        }
    }
}

fn payload(batch: &Batch, row: usize) -> &[u8] {
    let (start, len) = (batch.payloads[row * 2], batch.payloads[row * 2 + 1]);
    if start == NONE { &[] } else { &batch.arena[start as usize..][..len as usize] }
}

fn contains(payload: &[u8], trigger: &[u8]) -> bool {
    trigger.is_empty() || payload.windows(trigger.len()).any(|window| window == trigger)
}

#[cfg(test)]
mod tests;
