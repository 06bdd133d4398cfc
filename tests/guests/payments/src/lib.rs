//! Asks for the payment of each order: events in the standard envelope, each caused by the one before.

use millstream_sdk::envelope::{Draft, Envelope};
use millstream_sdk::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct OrderPlaced {
    order: String,
    total_cents: u64,
}

#[derive(Serialize)]
struct PaymentRequested {
    order: String,
    cents: u64,
}

pub struct Payments;

impl Plugin for Payments {
    type Config = NoConfig;
    const NAME: &'static str = "payments";
    const SUMMARY: &'static str = "Asks for the payment of each order.";

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Payments)
    }
}

impl Process for Payments {
    fn process(&mut self, message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure> {
        let placed: Envelope<OrderPlaced> = message.json()?;
        let OrderPlaced { order, total_cents } = &placed.data;
        let data = PaymentRequested { order: order.clone(), cents: *total_cents };
        let requested =
            Envelope::caused_by(Draft::of(message)?, &placed, "payment.requested", "payments", data);
        out.emit().payload_json(&requested)?;
        Ok(Verdict::Emit)
    }
}

millstream_sdk::export!(Payments);
