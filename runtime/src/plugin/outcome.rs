//! What a guest gave back, checked and put into rows. A guest may lie: nothing here is used as an
//! index before it was compared in u64.

use std::borrow::Cow;
use std::collections::HashSet;

use bytes::Bytes;

use crate::config::secrets::Redactor;
use crate::config::units::ByteSize;
use crate::message::{Batch, HeaderSpan, MAX_ARENA_BYTES, Row, Span};

use super::bindings::{AS_PARENT, NONE, Outcome, Reason, TIMESTAMP_AS_PARENT};
use super::convert::{Columns, headers_of};
use super::fault::Stop;
use super::{Fate, FateVerdict, Fault, Processed};

const PASS: u8 = 0;
const DROP: u8 = 1;
const EMIT: u8 = 2;
const REJECT: u8 = 3;
const RETRY: u8 = 4;

/// Sets of routes in one outcome; they are compared with each other.
const MAX_ROUTE_SETS: usize = 1024;
/// Longest code of a reason: it is a label of metrics.
const MAX_CODE_BYTES: usize = 64;
/// Up to that many names are compared one by one.
const FEW_HEADERS: usize = 16;

/// What became of the rows of a call.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Tally {
    pub passed: u64,
    pub dropped: u64,
    pub emitted: u64,
    pub rejected: u64,
    pub retried: u64,
}

/// What becomes of a batch, call by call.
pub(super) struct Assembly {
    /// That many rows passed before any did something else; they are not in `rows` yet.
    untouched: usize,
    rows: Vec<Row>,
    parents: Vec<u32>,
    fates: Vec<Fate>,
    headers: Vec<HeaderSpan>,
    /// Where `headers` will begin in the batch.
    first_header: u32,
    full: Vec<Bytes>,
    /// New bytes of all calls; full ones lie in `full`.
    arena: Vec<u8>,
    /// Where `full`, then `arena`, will stand among the arenas of the batch.
    first_arena: usize,
}

impl Assembly {
    /// For a batch whose rows were taken out.
    pub fn new(batch: &Batch) -> Assembly {
        Assembly {
            untouched: 0,
            rows: Vec::new(),
            parents: Vec::new(),
            fates: Vec::new(),
            headers: Vec::new(),
            first_header: batch.headers().len() as u32,
            full: Vec::new(),
            arena: Vec::new(),
            first_arena: batch.arenas().len(),
        }
    }

    /// Takes the outcome of a call about `columns`, filled from the rows of `input` that begin with
    /// `first`. `limit` is what one row may give.
    ///
    /// # Errors
    /// The outcome breaks the contract; nothing of it was taken.
    pub fn take(
        &mut self,
        outcome: Outcome,
        batch: &mut Batch,
        columns: &Columns,
        input: &[Row],
        first: usize,
        limit: ByteSize,
    ) -> Result<Tally, Stop> {
        let Outcome { verdicts, arena, emitted, headers, timestamps, routes, reasons } = outcome;
        let rows = columns.rows();
        if verdicts.len() != rows {
            let verdicts = verdicts.len();
            return Err(Stop::Malformed(format!("gave {verdicts} verdicts for {rows} messages")));
        }
        let says_more =
            !emitted.is_empty() || !headers.is_empty() || !timestamps.is_empty() || !reasons.is_empty();
        if !says_more && verdicts.iter().all(|&verdict| verdict == PASS) {
            self.pass(input, first, rows);
            return Ok(Tally { passed: rows as u64, ..Tally::default() });
        }
        let (emitted, headers) = strides(&emitted, &headers)?;
        if !timestamps.is_empty() && timestamps.len() != emitted.len() {
            let (times, rows) = (timestamps.len(), emitted.len());
            return Err(Stop::Malformed(format!("gave {times} timestamps for {rows} new messages")));
        }
        self.touch(input);
        let before = self.marks();
        let new_bytes = arena.len() as u64;
        let mut taking = Taking {
            emitted,
            headers,
            timestamps: &timestamps,
            routes: RouteSets { sets: routes, known: Vec::new() },
            columns,
            input_bytes: columns.arena(batch).len() as u64,
            new_bytes,
            new_start: self.add_arena(arena)?,
            batch,
            limit: limit.0,
            next_header: 0,
        };
        let result = taking.rows(self, &verdicts, reasons, input, first);
        if result.is_err() {
            self.back_to(before);
        }
        result
    }

    /// A message on which the plugin failed.
    pub fn fault(&mut self, input: &[Row], parent: usize, fault: Fault) {
        self.touch(input);
        self.fate(input, parent, FateVerdict::Faulted(fault.into()));
    }

    /// What became so far of the rows that do not go on, in order.
    pub fn fates_mut(&mut self) -> &mut [Fate] {
        &mut self.fates
    }

    /// The whole, of the batch and the rows that were taken out of it.
    ///
    /// # Errors
    /// The batch has no room for another arena.
    pub fn finish(mut self, mut batch: Batch, input: Vec<Row>) -> anyhow::Result<Processed> {
        if self.is_untouched() {
            let parents = (0..input.len() as u32).collect();
            batch.set_rows(input);
            return Ok(Processed { batch, parents, ..Processed::default() });
        }
        if !self.headers.is_empty() {
            batch.add_headers(&self.headers);
        }
        if !self.arena.is_empty() {
            self.full.push(Bytes::from(self.arena));
        }
        for arena in self.full {
            anyhow::ensure!(batch.add_arena(arena).is_some(), "a batch went through too many plugins");
        }
        batch.set_rows(self.rows);
        Ok(Processed { batch, parents: self.parents, fates: self.fates, ..Processed::default() })
    }

    fn is_untouched(&self) -> bool {
        self.rows.is_empty() && self.fates.is_empty()
    }

    fn pass(&mut self, input: &[Row], first: usize, rows: usize) {
        if self.is_untouched() {
            self.untouched = first + rows;
            return;
        }
        self.rows.extend_from_slice(&input[first..first + rows]);
        self.parents.extend(first as u32..(first + rows) as u32);
    }

    /// From here on rows are listed.
    fn touch(&mut self, input: &[Row]) {
        if self.is_untouched() && self.untouched > 0 {
            self.rows.reserve(input.len());
            self.parents.reserve(input.len());
            let passed = std::mem::take(&mut self.untouched);
            self.rows.extend_from_slice(&input[..passed]);
            self.parents.extend(0..passed as u32);
        }
    }

    fn fate(&mut self, input: &[Row], parent: usize, verdict: FateVerdict) {
        self.fates.push(Fate { parent: parent as u32, row: input[parent], verdict });
    }

    /// Keeps the new bytes of a call; returns where they begin in `arena`.
    fn add_arena(&mut self, new: Vec<u8>) -> Result<usize, Stop> {
        if new.len() > MAX_ARENA_BYTES {
            return Err(Stop::Output(ByteSize(MAX_ARENA_BYTES as u64)));
        }
        if self.arena.len() + new.len() > MAX_ARENA_BYTES {
            self.full.push(Bytes::from(std::mem::take(&mut self.arena)));
        }
        if self.arena.is_empty() {
            self.arena = new;
            return Ok(0);
        }
        let start = self.arena.len();
        self.arena.extend_from_slice(&new);
        Ok(start)
    }

    fn marks(&self) -> Marks {
        Marks {
            rows: self.rows.len(),
            fates: self.fates.len(),
            headers: self.headers.len(),
            full: self.full.len(),
            arena: self.arena.len(),
        }
    }

    fn back_to(&mut self, marks: Marks) {
        self.rows.truncate(marks.rows);
        self.parents.truncate(marks.rows);
        self.fates.truncate(marks.fates);
        self.headers.truncate(marks.headers);
        let arena = if self.full.len() == marks.full { marks.arena } else { 0 };
        self.arena.truncate(arena);
    }
}

struct Marks {
    rows: usize,
    fates: usize,
    headers: usize,
    full: usize,
    arena: usize,
}

type Emitted = [u32; 8];
type Header = [u32; 4];

fn strides<'o>(emitted: &'o [u32], headers: &'o [u32]) -> Result<(&'o [Emitted], &'o [Header]), Stop> {
    match (emitted.as_chunks(), headers.as_chunks()) {
        ((emitted, []), (headers, [])) => Ok((emitted, headers)),
        _ => Err(Stop::Malformed(format!(
            "gave {} numbers for new messages and {} for headers: not a multiple of 8 and of 4",
            emitted.len(),
            headers.len()
        ))),
    }
}

/// One outcome while it is read.
struct Taking<'o> {
    emitted: &'o [Emitted],
    headers: &'o [Header],
    timestamps: &'o [i64],
    routes: RouteSets,
    columns: &'o Columns,
    batch: &'o mut Batch,
    input_bytes: u64,
    new_bytes: u64,
    /// Where the new bytes lie in the arena of the assembly.
    new_start: usize,
    limit: u64,
    next_header: usize,
}

impl Taking<'_> {
    fn rows(
        &mut self,
        assembly: &mut Assembly,
        verdicts: &[u8],
        reasons: Vec<Reason>,
        input: &[Row],
        first: usize,
    ) -> Result<Tally, Stop> {
        let mut tally = Tally::default();
        let mut reasons = reasons.into_iter().peekable();
        let mut next = 0;
        for (index, &verdict) in verdicts.iter().enumerate() {
            let parent = first + index;
            match verdict {
                PASS => {
                    tally.passed += 1;
                    assembly.rows.push(input[parent]);
                    assembly.parents.push(parent as u32);
                }
                DROP => {
                    tally.dropped += 1;
                    assembly.fate(input, parent, FateVerdict::Dropped);
                }
                EMIT => {
                    let from = next;
                    let mut left = self.limit;
                    while self.emitted.get(next).is_some_and(|row| row[0] == index as u32) {
                        let (row, cost) = self.row(assembly, next, &input[parent])?;
                        left = left.checked_sub(cost).ok_or(Stop::Output(ByteSize(self.limit)))?;
                        assembly.rows.push(row);
                        assembly.parents.push(parent as u32);
                        next += 1;
                    }
                    if next == from {
                        tally.dropped += 1;
                        assembly.fate(input, parent, FateVerdict::Dropped);
                    } else {
                        tally.emitted += 1;
                    }
                }
                REJECT | RETRY => {
                    let reason = reasons.next_if(|reason| reason.row == index as u32);
                    let (code, reason) = told(reason, self.limit)?;
                    let verdict = if verdict == REJECT {
                        tally.rejected += 1;
                        FateVerdict::Rejected { code, reason }
                    } else {
                        tally.retried += 1;
                        FateVerdict::Retry { code, reason }
                    };
                    assembly.fate(input, parent, verdict);
                }
                other => {
                    return Err(Stop::Malformed(format!("gave the verdict {other}, which there is not")));
                }
            }
        }
        if let Some(row) = self.emitted.get(next) {
            let parent = row[0];
            return Err(Stop::Malformed(format!(
                "gave a new message for row {parent}, which is out of order, or not of a verdict to emit"
            )));
        }
        if let Some(reason) = reasons.next() {
            let row = reason.row;
            return Err(Stop::Malformed(format!(
                "gave a reason for row {row}, which is out of order, or neither rejected nor to be retried"
            )));
        }
        if self.next_header != self.headers.len() {
            let (used, given) = (self.next_header, self.headers.len());
            return Err(Stop::Malformed(format!("gave {given} headers, of which its messages have {used}")));
        }
        Ok(tally)
    }

    /// A new row and what it counts against the limit for output.
    fn row(&mut self, assembly: &mut Assembly, index: usize, parent: &Row) -> Result<(Row, u64), Stop> {
        let [_, payload, payload_len, key, key_len, headers, mode, route] = self.emitted[index];
        let mut row = *parent;
        row.payload = self.address(assembly, payload, payload_len, parent.payload)?;
        row.key = self.address(assembly, key, key_len, parent.key)?;
        let mut cost = size_of::<Row>() as u64 + u64::from(row.payload.len()) + u64::from(row.key.len());
        let replace = match mode {
            0 => false,
            1 => true,
            _ => return Err(Stop::Malformed(format!("gave the header mode {mode}, which there is not"))),
        };
        if headers > 0 || replace {
            let first = assembly.headers.len();
            self.header_list(assembly, headers, replace, parent)?;
            row.first_header = assembly.first_header + first as u32;
            row.header_count = (assembly.headers.len() - first) as u32;
            let own = &assembly.headers[first..];
            cost += own.iter().map(header_bytes).sum::<u64>() + size_of_val(own) as u64;
        } else {
            cost += headers_of(self.batch, parent).iter().map(header_bytes).sum::<u64>();
        }
        match self.timestamps.get(index) {
            None | Some(&TIMESTAMP_AS_PARENT) => {}
            Some(&time) => row.timestamp_ms = time,
        }
        if route != AS_PARENT {
            row.routes = self.routes.of(route, self.batch)?;
        }
        Ok((row, cost))
    }

    /// Appends the headers of a new row to those of the assembly.
    fn header_list(
        &mut self,
        assembly: &mut Assembly,
        count: u32,
        replace: bool,
        parent: &Row,
    ) -> Result<(), Stop> {
        let end = self.next_header as u64 + u64::from(count);
        if end > self.headers.len() as u64 {
            let given = self.headers.len();
            return Err(Stop::Malformed(format!("gave {given} headers, of which its messages have {end}")));
        }
        let all = self.headers;
        let given = &all[self.next_header..end as usize];
        self.next_header = end as usize;
        let names = given.iter().map(|&[name, len, _, _]| self.name(assembly, name, len));
        let names = names.collect::<Result<Vec<Span>, Stop>>()?;
        if !replace {
            let given = Names::new(names.iter().map(|&name| self.bytes(assembly, name)));
            let name = |header: &HeaderSpan| self.batch.bytes(header.name).unwrap_or_default();
            let kept = headers_of(self.batch, parent).iter().filter(|header| !given.contain(name(header)));
            let kept: Vec<HeaderSpan> = kept.copied().collect();
            assembly.headers.extend(kept);
        }
        for (&[_, _, value, len], name) in given.iter().zip(names) {
            match value {
                NONE => {}
                AS_PARENT => return Err(Stop::Malformed("gave a header no value".into())),
                _ => {
                    let value = self.address(assembly, value, len, Span::ABSENT)?;
                    assembly.headers.push(HeaderSpan { name, value });
                }
            }
        }
        Ok(())
    }

    fn name(&self, assembly: &mut Assembly, address: u32, len: u32) -> Result<Span, Stop> {
        if address == NONE || address == AS_PARENT {
            return Err(Stop::Malformed("gave a header no name".into()));
        }
        let span = self.address(assembly, address, len, Span::ABSENT)?;
        match std::str::from_utf8(self.bytes(assembly, span)) {
            Ok(_) => Ok(span),
            Err(_) => Err(Stop::Malformed("gave a header name that is not UTF-8".into())),
        }
    }

    /// The bytes of a span of the batch or of the assembly's own arena.
    fn bytes<'a>(&'a self, assembly: &'a Assembly, span: Span) -> &'a [u8] {
        if span.arena() as usize == assembly.first_arena + assembly.full.len() {
            return &assembly.arena[span.start() as usize..][..span.len() as usize];
        }
        self.batch.bytes(span).unwrap_or_default()
    }

    /// The span that an address means.
    fn address(&self, assembly: &mut Assembly, address: u32, len: u32, parent: Span) -> Result<Span, Stop> {
        match address {
            AS_PARENT => return Ok(parent),
            NONE => return Ok(Span::ABSENT),
            _ => {}
        }
        let start = u64::from(address);
        let end = start + u64::from(len);
        let all = self.input_bytes + self.new_bytes;
        if start < self.input_bytes {
            if end > self.input_bytes {
                return Err(outside(start, end, self.input_bytes));
            }
            if let Some(span) = self.columns.span(address, len) {
                return Ok(span);
            }
            // It spans what lies apart in the batch.
            let copied = self.columns.arena(self.batch)[start as usize..end as usize].to_vec();
            let at = assembly.arena.len();
            if at + copied.len() > MAX_ARENA_BYTES {
                return Err(Stop::Output(ByteSize(MAX_ARENA_BYTES as u64)));
            }
            assembly.arena.extend_from_slice(&copied);
            return Ok(own_span(assembly, at, len));
        }
        if end > all {
            return Err(outside(start, end, all));
        }
        if len == 0 {
            // Of no new bytes at all no arena is made.
            return Ok(Span::EMPTY);
        }
        let at = self.new_start + (start - self.input_bytes) as usize;
        Ok(own_span(assembly, at, len))
    }
}

fn own_span(assembly: &Assembly, at: usize, len: u32) -> Span {
    Span::new((assembly.first_arena + assembly.full.len()) as u16, at as u32, len)
}

fn outside(start: u64, end: u64, bytes: u64) -> Stop {
    Stop::Malformed(format!("gave an address {start}..{end} that does not end within {bytes} bytes"))
}

fn header_bytes(header: &HeaderSpan) -> u64 {
    u64::from(header.name.len()) + u64::from(header.value.len())
}

/// Code and text of a reason.
fn told(reason: Option<Reason>, limit: u64) -> Result<(String, String), Stop> {
    let Some(Reason { mut code, text, .. }) = reason else {
        return Ok(("unspecified".into(), "the plugin gave no reason".into()));
    };
    if (code.len() + text.len()) as u64 > limit {
        return Err(Stop::Output(ByteSize(limit)));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    code = redacted(code);
    if code.is_empty() {
        code.push_str("unspecified");
    } else if code.len() > MAX_CODE_BYTES || !code.chars().all(plain) {
        code = code.chars().take(MAX_CODE_BYTES).map(|c| if plain(c) { c } else { '-' }).collect();
    }
    Ok((code, redacted(text)))
}

fn redacted(text: String) -> String {
    match Redactor::global().redact(&text) {
        Cow::Owned(redacted) => redacted,
        Cow::Borrowed(_) => text,
    }
}

/// The route sets of an outcome, each added to the batch when it is first used.
struct RouteSets {
    sets: Vec<Vec<String>>,
    known: Vec<u32>,
}

impl RouteSets {
    fn of(&mut self, index: u32, batch: &mut Batch) -> Result<u32, Stop> {
        let sets = self.sets.len();
        if sets > MAX_ROUTE_SETS {
            return Err(Stop::Malformed(format!("gave {sets} sets of routes, more than {MAX_ROUTE_SETS}")));
        }
        self.known.resize(sets, 0);
        let index = index as usize;
        match self.known.get_mut(index) {
            None => Err(Stop::Malformed(format!("gave the set of routes {index} of {sets}"))),
            Some(known) => {
                if *known == 0 {
                    *known = batch.add_routes(std::mem::take(&mut self.sets[index]).into());
                }
                Ok(*known)
            }
        }
    }
}

/// Header names without regard to ASCII case.
enum Names<'n> {
    Few(Vec<&'n [u8]>),
    Many(HashSet<Vec<u8>>),
}

impl<'n> Names<'n> {
    fn new(names: impl ExactSizeIterator<Item = &'n [u8]>) -> Names<'n> {
        if names.len() <= FEW_HEADERS {
            Names::Few(names.collect())
        } else {
            Names::Many(names.map(<[u8]>::to_ascii_lowercase).collect())
        }
    }

    fn contain(&self, name: &[u8]) -> bool {
        match self {
            Names::Few(names) => names.iter().any(|known| known.eq_ignore_ascii_case(name)),
            Names::Many(names) => names.contains(&name.to_ascii_lowercase()),
        }
    }
}
