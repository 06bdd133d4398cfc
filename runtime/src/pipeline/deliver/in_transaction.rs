//! Calls that belong to a transaction.

use std::collections::VecDeque;

use anyhow::Context;

use super::{Delivery, Parcel, Piece};
use crate::message::{MessageRef, Row};
use crate::pipeline::transaction::Gate;
use crate::sinks::{CallError, Outcome, Outcomes};

impl Delivery {
    /// Brings back what waited for the next transaction, if that is open, before everything that came
    /// after it. Returns the boundary of the moment.
    pub(super) fn let_in(&mut self) -> u64 {
        let Some(gate) = &self.shared.gate else { return u64::MAX };
        let boundary = gate.boundary();
        let free = |parcel: &Parcel| parcel.held.claim() < boundary || parcel.held.is_revoked();
        if self.held_back.iter().any(free) {
            let (mut first, later): (VecDeque<Parcel>, VecDeque<Parcel>) =
                std::mem::take(&mut self.held_back).into_iter().partition(free);
            self.held_back = later;
            first.append(&mut self.fresh);
            self.fresh = first;
        }
        boundary
    }

    /// Makes one call that belongs to the open transaction. Only what is written or refused beforehand
    /// leaves it whole; with anything else it has failed, and everything in flight is run again.
    pub(super) async fn make_in_transaction(
        &mut self,
        gate: &Gate,
        mut call: Vec<Piece>,
    ) -> anyhow::Result<()> {
        call.iter_mut().for_each(|piece| piece.held.begin_sending());
        let call = self.give_up_condemned(gate, call).await;
        let messages: Vec<MessageRef<'_>> =
            call.iter().flat_map(|piece| piece.held.batch().messages()).collect();
        if messages.is_empty() {
            return Ok(());
        }
        let result = self.sink.write(&messages).await;
        let count = messages.len();
        drop(messages);
        if call.iter().any(|piece| piece.held.is_revoked()) {
            call.into_iter().for_each(|piece| piece.held.abandon());
            return Ok(());
        }
        let failure = match result {
            Ok(Outcomes::AllDurable) => {
                call.into_iter().for_each(|piece| self.delivered(piece.held));
                return Ok(());
            }
            Ok(Outcomes::Each(outcomes)) => match outcomes.iter().find_map(why_not_whole) {
                None => return self.settle(call, outcomes, count).await,
                Some(reason) => reason,
            },
            Ok(Outcomes::Until(_, why)) => why.to_string(),
            Err(CallError::Fatal(reason)) => anyhow::bail!("sink {}: {reason}", self.name),
            Err(CallError::Refused { message, code, reason }) => {
                let why = self.refused(code, reason, 1);
                let text = why.reason.clone();
                let mut rows = call.iter().flat_map(|piece| {
                    piece.held.batch().rows().iter().map(move |row| (&piece.held, row.position))
                });
                let (held, position) =
                    rows.nth(message).context("a sink that refuses a message it was not given")?;
                gate.condemn(position, self.number, held.is_replay(), why);
                text
            }
            Err(why) => why.to_string(),
        };
        self.shared.count_error(&format!("sink:{}", self.name), "aborted");
        gate.fail(format!("sink {}: {failure}", self.name));
        call.into_iter().for_each(|piece| piece.held.abandon());
        Ok(())
    }

    /// Gives up what the brokers refused in a transaction before this one.
    async fn give_up_condemned(&mut self, gate: &Gate, call: Vec<Piece>) -> Vec<Piece> {
        if !gate.has_condemned() {
            return call;
        }
        let number = self.number;
        let is_condemned = |row: &Row| gate.condemned(row.position, number);
        let mut left = Vec::with_capacity(call.len());
        for Piece { origin, held, attempts, put_off } in call {
            if !held.batch().rows().iter().any(|row| is_condemned(row).is_some()) {
                left.push(Piece { origin, held, attempts, put_off });
                continue;
            }
            for held in held.singles() {
                match is_condemned(&held.batch().rows()[0]) {
                    Some(why) => {
                        self.shared.not_sent(number, &held, &why.code, &why.reason);
                        self.desk.give_up(&origin, held, why).await;
                    }
                    None => left.push(Piece { origin: origin.clone(), held, attempts, put_off }),
                }
            }
        }
        left
    }
}

/// Why a transaction with this outcome in it has failed, if it has.
fn why_not_whole(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Durable | Outcome::Reject { .. } => None,
        Outcome::Retry { reason, .. } | Outcome::Later { reason, .. } => Some(reason.clone()),
    }
}

/// Waits until the gate's boundary is drawn anew, or for ever.
pub async fn opened(gate: Option<&Gate>, drawn: u64) {
    match gate {
        Some(gate) => gate.wait(drawn).await,
        None => std::future::pending().await,
    }
}
