//! The messages that a plugin makes, written straight into the columns that go back to the host.

use std::fmt;
use std::io;

use serde::Serialize;

use crate::append::{Appending, append};
use crate::bindings::millstream::plugin::types::{Outcome, Reason};
use crate::message::{Batch, NONE};
use crate::plugin::{Failure, Verdict};

// See `wit/plugin.wit`.
pub(crate) const AS_PARENT: u32 = 0xFFFF_FFFF;
pub(crate) const TIMESTAMP_AS_PARENT: i64 = i64::MIN;
pub(crate) const STRIDE: usize = 8;
const PAYLOAD: usize = 1;
const KEY: usize = 3;
const HEADER_COUNT: usize = 5;
const HEADER_MODE: usize = 6;
const ROUTES: usize = 7;
const PASS: u8 = 0;
const DROP: u8 = 1;
const EMIT: u8 = 2;
const REJECT: u8 = 3;
const RETRY: u8 = 4;

/// Where a plugin puts the messages it makes.
pub struct Output {
    columns: Outcome,
    /// Where the batch's arena lies: a slice of it is pointed to instead of copied.
    input: std::ops::Range<usize>,
    rows: usize,
    /// What belongs to the messages settled so far.
    settled: Lengths,
}

#[derive(Clone, Copy, Default)]
struct Lengths {
    arena: usize,
    emitted: usize,
    headers: usize,
    timestamps: usize,
}

/// How large the columns of the last call were: the next call is likely of the same size.
#[derive(Clone, Copy, Default)]
pub(crate) struct SizeHint {
    lengths: Lengths,
    rows: usize,
}

impl Output {
    pub(crate) fn new(batch: &Batch<'_>, arena: &[u8], last: SizeHint) -> Output {
        // Twice the last size per row, at most as much as the last call needed.
        let capacity = |last_length: usize| match last.rows {
            0 => 0,
            rows => (last_length * batch.len() / rows).min(last_length) * 9 / 8,
        };
        let start = arena.as_ptr() as usize;
        Output {
            columns: Outcome {
                verdicts: Vec::with_capacity(batch.len()),
                arena: Vec::with_capacity(capacity(last.lengths.arena)),
                emitted: Vec::with_capacity(capacity(last.lengths.emitted)),
                headers: Vec::with_capacity(capacity(last.lengths.headers)),
                timestamps: Vec::with_capacity(capacity(last.lengths.timestamps)),
                routes: Vec::new(),
                reasons: Vec::new(),
            },
            input: start..start + arena.len(),
            rows: batch.len(),
            settled: Lengths::default(),
        }
    }

    /// Adds a message that is as the one it comes from in everything that is not changed then.
    pub fn emit(&mut self) -> Emission<'_> {
        let at = self.columns.emitted.len();
        let row = self.columns.verdicts.len() as u32;
        self.columns.emitted.extend_from_slice(&[row, AS_PARENT, 0, AS_PARENT, 0, 0, 0, AS_PARENT]);
        if !self.columns.timestamps.is_empty() {
            self.columns.timestamps.push(TIMESTAMP_AS_PARENT);
        }
        Emission { out: self, at }
    }

    /// Says what becomes of the next message of the batch. Only for
    /// [`process_batch`](crate::Process::process_batch).
    ///
    /// # Panics
    /// If messages were emitted for it and the verdict is not [`Verdict::Emit`].
    #[inline]
    pub fn settle(&mut self, verdict: Result<Verdict, Failure>) {
        let verdict = match verdict {
            Ok(Verdict::Emit) => {
                self.settled = self.lengths();
                EMIT
            }
            Ok(verdict) => {
                if self.columns.emitted.len() != self.settled.emitted {
                    emitted_in_vain(verdict);
                }
                if verdict == Verdict::Pass { PASS } else { DROP }
            }
            Err(failure) => self.fail(failure),
        };
        self.columns.verdicts.push(verdict);
    }

    #[cold]
    fn fail(&mut self, failure: Failure) -> u8 {
        self.columns.arena.truncate(self.settled.arena);
        self.columns.emitted.truncate(self.settled.emitted);
        self.columns.headers.truncate(self.settled.headers);
        self.columns.timestamps.truncate(self.settled.emitted / STRIDE);
        let row = self.columns.verdicts.len() as u32;
        let failure = failure.into_parts();
        self.columns.reasons.push(Reason { row, code: failure.code.into_owned(), text: failure.text });
        if failure.retry { RETRY } else { REJECT }
    }

    fn lengths(&self) -> Lengths {
        Lengths {
            arena: self.columns.arena.len(),
            emitted: self.columns.emitted.len(),
            headers: self.columns.headers.len(),
            timestamps: self.columns.timestamps.len(),
        }
    }

    pub(crate) fn finish(self) -> (Outcome, SizeHint) {
        let verdicts = self.columns.verdicts.len();
        assert!(
            verdicts == self.rows,
            "process_batch settled {verdicts} messages of a batch of {}: settle each one once",
            self.rows
        );
        let hint = SizeHint { lengths: self.lengths(), rows: self.rows };
        (self.columns, hint)
    }

    /// Puts bytes where the host finds them; returns address and length.
    fn place(&mut self, bytes: &[u8]) -> [u32; 2] {
        let len = bytes.len() as u32;
        let start = bytes.as_ptr() as usize;
        if self.input.start <= start && start + bytes.len() <= self.input.end {
            return [(start - self.input.start) as u32, len];
        }
        let address = self.next_address();
        append(&mut self.columns.arena, bytes);
        [address, len]
    }

    fn next_address(&self) -> u32 {
        u32::try_from(self.input.len() + self.columns.arena.len())
            .ok()
            .filter(|&address| address < NONE)
            .expect("a batch and what a plugin makes of it are below 4 gib")
    }
}

#[cold]
fn emitted_in_vain(verdict: Verdict) -> ! {
    panic!("messages were emitted but the verdict is {verdict:?}: return Verdict::Emit to send them");
}

/// A message being made. It is part of the output from the start; nothing ends it.
pub struct Emission<'o> {
    out: &'o mut Output,
    at: usize,
}

impl<'o> Emission<'o> {
    /// Sets the payload. A slice of the batch (of a payload, a key, a header) is not copied.
    pub fn payload(self, payload: &[u8]) -> Self {
        let span = self.out.place(payload);
        self.set(PAYLOAD, span)
    }

    /// Sets the payload to null.
    pub fn null_payload(self) -> Self {
        self.set(PAYLOAD, [NONE, 0])
    }

    /// Writes the payload as compact JSON.
    ///
    /// # Errors
    /// Rejects with `output-not-json` what JSON cannot hold, such as a map whose keys are lists.
    pub fn payload_json<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, Failure> {
        let address = self.out.next_address();
        let arena = &mut self.out.columns.arena;
        let start = arena.len();
        serde_json::to_writer(Appending(arena), value).map_err(not_writable)?;
        let len = (self.out.columns.arena.len() - start) as u32;
        Ok(self.set(PAYLOAD, [address, len]))
    }

    /// Writes the payload piece by piece; [`PayloadWriter::done`] gives the message back.
    pub fn payload_writer(self) -> PayloadWriter<'o> {
        let address = self.out.next_address();
        PayloadWriter { emission: self.set(PAYLOAD, [address, 0]) }
    }

    /// Sets the key. A slice of the batch is not copied.
    pub fn key(self, key: &[u8]) -> Self {
        let span = self.out.place(key);
        self.set(KEY, span)
    }

    pub fn no_key(self) -> Self {
        self.set(KEY, [NONE, 0])
    }

    /// Replaces all headers of this name, compared without regard to ASCII case. Said twice, the
    /// message has both.
    pub fn set_header(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let [name, name_len] = self.out.place(name.as_bytes());
        let [value, value_len] = self.out.place(value.as_ref());
        self.add_header([name, name_len, value, value_len])
    }

    /// Removes all headers of this name, compared without regard to ASCII case.
    pub fn remove_header(self, name: &str) -> Self {
        let [name, name_len] = self.out.place(name.as_bytes());
        self.add_header([name, name_len, NONE, 0])
    }

    /// Keeps none of the headers that the message came with, only those set here.
    pub fn clear_headers(self) -> Self {
        self.out.columns.emitted[self.at + HEADER_MODE] = 1;
        self
    }

    /// Sets the event time, milliseconds since 1970-01-01T00:00:00Z.
    pub fn timestamp_ms(self, timestamp: i64) -> Self {
        let row = self.at / STRIDE;
        let timestamps = &mut self.out.columns.timestamps;
        timestamps.resize(row + 1, TIMESTAMP_AS_PARENT);
        timestamps[row] = timestamp;
        self
    }

    /// Names the routes of the message, in place of those it has: it goes to the sinks with one of
    /// these as their `route`, and to those without.
    pub fn routes<S: AsRef<str>>(self, names: &[S]) -> Self {
        let sets = &mut self.out.columns.routes;
        let same = |set: &Vec<String>| {
            set.len() == names.len() && set.iter().zip(names).all(|(known, name)| known == name.as_ref())
        };
        let index = sets.iter().position(same).unwrap_or_else(|| {
            sets.push(names.iter().map(|name| name.as_ref().to_owned()).collect());
            sets.len() - 1
        });
        self.out.columns.emitted[self.at + ROUTES] = index as u32;
        self
    }

    fn add_header(self, header: [u32; 4]) -> Self {
        self.out.columns.headers.extend_from_slice(&header);
        self.out.columns.emitted[self.at + HEADER_COUNT] += 1;
        self
    }

    fn set(self, field: usize, [address, len]: [u32; 2]) -> Self {
        let at = self.at + field;
        self.out.columns.emitted[at..at + 2].copy_from_slice(&[address, len]);
        self
    }
}

#[cold]
fn not_writable(error: serde_json::Error) -> Failure {
    Failure::reject("output-not-json", format!("the new payload cannot be written as json: {error}"))
}

/// Writes the payload of a message being made, as bytes or as text.
pub struct PayloadWriter<'o> {
    emission: Emission<'o>,
}

impl<'o> PayloadWriter<'o> {
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        let Emission { out, at } = &mut self.emission;
        append(&mut out.columns.arena, bytes);
        out.columns.emitted[*at + PAYLOAD + 1] += bytes.len() as u32;
    }

    pub fn done(self) -> Emission<'o> {
        self.emission
    }
}

impl io::Write for PayloadWriter<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.push(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for PayloadWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
