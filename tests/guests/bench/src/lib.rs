//! What the benchmarks run, in the sandbox and, as the control, natively: the same functions.

use millstream_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    mode: Mode,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Passes every message.
    Identity,
    /// [`keeps`]
    FilterJson,
    /// [`transform`]
    TransformJson,
}

pub struct Bench(Mode);

impl Plugin for Bench {
    type Config = Config;
    const NAME: &'static str = "bench";
    const SUMMARY: &'static str = "Does what the benchmarks measure.";

    fn new(config: Config) -> Result<Self, ConfigError> {
        Ok(Bench(config.mode))
    }
}

impl Process for Bench {
    fn process(&mut self, message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure> {
        let payload = message.payload().unwrap_or_default();
        match self.0 {
            Mode::Identity => Ok(Verdict::Pass),
            Mode::FilterJson => keeps(payload).map(Verdict::pass_if).map_err(not_an_order),
            Mode::TransformJson => {
                out.emit().payload_json(&transform(payload).map_err(not_an_order)?)?;
                Ok(Verdict::Emit)
            }
        }
    }
}

millstream_sdk::export!(Bench);

fn not_an_order(error: serde_json::Error) -> Failure {
    Failure::reject("not-an-order", error.to_string())
}

/// An order of about 300 bytes of JSON; [`keeps`] keeps every second one.
pub fn order(number: u64) -> Vec<u8> {
    let status = if number.is_multiple_of(2) { "paid" } else { "open" };
    format!(
        concat!(
            r#"{{"id":"ord-{number:08}","customer":"cust-{customer:05}","email":"cust-{customer:05}@example.com","#,
            r#""country":"DE","channel":"web","warehouse":"fra-2","status":"{status}","currency":"EUR","#,
            r#""total":{total}.95,"items":{items},"priority":false,"created":"2024-05-01T12:34:56Z","#,
            r#""note":"please ring twice and leave it at the door","tags":["gift","express"]}}"#
        ),
        number = number,
        customer = number * 7919 % 100_000,
        status = status,
        total = 100 + number * 31 % 900,
        items = 1 + number % 9,
    )
    .into_bytes()
}

/// As [`Message::json`] does it.
fn parse<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> serde_json::Result<T> {
    serde_json::from_str(std::str::from_utf8(payload).map_err(serde::de::Error::custom)?)
}

/// Two fields of an order.
#[derive(Deserialize)]
struct Paid<'a> {
    status: &'a str,
    total: f64,
}

/// The filter: whether an order is paid and not small.
pub fn keeps(order: &[u8]) -> serde_json::Result<bool> {
    let order: Paid<'_> = parse(order)?;
    Ok(order.status == "paid" && order.total >= 100.0)
}

/// Nine fields of an order.
#[derive(Deserialize)]
struct Order<'a> {
    id: &'a str,
    customer: &'a str,
    email: &'a str,
    country: &'a str,
    channel: &'a str,
    currency: &'a str,
    total: f64,
    items: u32,
    created: &'a str,
}

/// What [`transform`] makes of an order.
#[derive(Serialize)]
struct Event<'a> {
    id: &'a str,
    r#type: &'static str,
    time: &'a str,
    data: EventData<'a>,
}

/// What [`transform`] makes of an order.
#[derive(Serialize)]
struct EventData<'a> {
    customer: Customer<'a>,
    channel: &'a str,
    items: u32,
    price: Price<'a>,
}

#[derive(Serialize)]
struct Customer<'a> {
    id: &'a str,
    email: &'a str,
    country: &'a str,
}

#[derive(Serialize)]
struct Price<'a> {
    amount: f64,
    currency: &'a str,
}

/// The transform: makes an event of an order.
fn transform(order: &[u8]) -> serde_json::Result<Event<'_>> {
    let order: Order<'_> = parse(order)?;
    Ok(Event {
        id: order.id,
        r#type: "order.placed",
        time: order.created,
        data: EventData {
            customer: Customer { id: order.customer, email: order.email, country: order.country },
            channel: order.channel,
            items: order.items,
            price: Price { amount: order.total, currency: order.currency },
        },
    })
}

/// The transform as natively one would write it, to the end of `out`. Compiled here and not where it is
/// called, in one unit, as a plugin is.
pub fn append_transformed(order: &[u8], out: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(out, &transform(order)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Outcome, Record};
    use serde_json::json;

    fn run(mode: &str) -> Vec<Outcome> {
        let mut bench = Harness::new::<Bench, _>(json!({ "mode": mode })).unwrap();
        bench.run(&[Record::new(order(0)), Record::new(order(1))])
    }

    #[test]
    fn an_order_has_about_300_bytes() {
        assert!((290..=320).contains(&order(12).len()), "{}", order(12).len());
    }

    #[test]
    fn identity_passes_everything() {
        assert_eq!(run("identity"), [Outcome::Pass, Outcome::Pass]);
    }

    #[test]
    fn the_filter_keeps_what_is_paid() {
        assert_eq!(run("filter-json"), [Outcome::Pass, Outcome::Drop]);
    }

    #[test]
    fn the_transform_writes_an_event() {
        let Outcome::Emit(events) = &run("transform-json")[1] else { panic!("nothing was emitted") };
        let event = json!({
            "id": "ord-00000001",
            "type": "order.placed",
            "time": "2024-05-01T12:34:56Z",
            "data": {
                "customer": { "id": "cust-07919", "email": "cust-07919@example.com", "country": "DE" },
                "channel": "web",
                "items": 2,
                "price": { "amount": 131.95, "currency": "EUR" },
            },
        });
        assert_eq!(events[0].payload_json(), event);
    }
}
