//! The conversion of what guests give back, for the fuzzer under `runtime/fuzz`.

use super::bindings::Reads;
pub use super::bindings::{Outcome, Reason};
use super::convert::{Columns, headers_of};
use super::outcome::Assembly;
use crate::config::units::ByteSize;
use crate::message::{BatchBuilder, Message, Position, Span};

/// What one row may give.
const LIMIT: ByteSize = ByteSize::kib(4);

fn all_pass(rows: usize) -> Outcome {
    Outcome {
        verdicts: vec![0; rows],
        arena: Vec::new(),
        emitted: Vec::new(),
        headers: Vec::new(),
        timestamps: Vec::new(),
        routes: Vec::new(),
        reasons: Vec::new(),
    }
}

/// Takes these answers, one after the other, to calls about two messages each; then all the others
/// pass.
///
/// # Panics
/// An answer that was taken makes rows that are none, or one that was refused leaves something behind.
pub fn take(messages: &[Message], answers: Vec<Outcome>) {
    let mut builder = BatchBuilder::new();
    for (number, message) in messages.iter().enumerate() {
        let position = Position { partition: 0, offset: number as u64, record: 0 };
        builder.push_message(message, position);
    }
    let mut batch = builder.finish();
    let input = batch.take_rows();
    let mut assembly = Assembly::new(&batch);
    let mut columns = Columns::default();
    let mut taken = 0;
    let mut answers = answers.into_iter();
    while taken < input.len() {
        let rows = (input.len() - taken).min(2);
        columns.fill(&batch, &input[taken..taken + rows], Reads::all(), u64::MAX);
        let answer = answers.next().unwrap_or_else(|| all_pass(rows));
        if let Ok(tally) = assembly.take(answer, &mut batch, &columns, &input, taken, LIMIT) {
            let told = tally.passed + tally.dropped + tally.emitted + tally.rejected + tally.retried;
            assert_eq!(told, rows as u64, "{tally:?}");
            taken += rows;
        }
    }
    let Ok(done) = assembly.finish(batch, input) else { return };
    let mut parents = done.parents.clone();
    assert!(parents.is_sorted());
    assert_eq!(parents.len(), done.batch.len());
    parents.dedup();
    parents.extend(done.fates.iter().map(|fate| fate.parent));
    parents.sort_unstable();
    assert!(parents.iter().copied().eq(0..messages.len() as u32), "{parents:?}");
    let there = |span: Span| assert!(span.is_absent() || done.batch.bytes(span).is_some(), "{span:?}");
    let fates = done.fates.iter().map(|fate| &fate.row);
    for row in done.batch.rows().iter().chain(fates) {
        there(row.payload);
        there(row.key);
        for header in headers_of(&done.batch, row) {
            assert!(std::str::from_utf8(done.batch.bytes(header.name).expect("a name")).is_ok());
            there(header.value);
        }
        done.batch.routes_of(row);
    }
    // As they go into the next plugin.
    columns.fill(&done.batch, done.batch.rows(), Reads::all(), u64::MAX);
    columns.arena(&done.batch);
}
