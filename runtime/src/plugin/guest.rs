//! What the host keeps beside each guest: its limits (P7), its clock, its log, what it is granted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{ResourceLimiter, StoreContextMut, UpdateDeadline};

use super::Limits;
use super::bindings::metrics::Point;
use super::capabilities::Capabilities;
use super::capabilities::clock::Determined;
use super::capabilities::state::Keeping;
use super::engine::{MAX_CORE_INSTANCES, MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES, TICK};
use super::fault::Stop;
use super::log::LogBuffer;
use super::tables::Granted;

/// The data of a store.
pub(super) struct Guest {
    pub memory: Memory,
    pub clock: Clock,
    pub log: LogBuffer,
    pub capabilities: Arc<Capabilities>,
    pub tables: Arc<Granted>,
    /// Time of the batch, milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: i64,
    pub determined: Option<Determined>,
    pub keeping: Keeping,
    /// What a call adds to the plugin's own metrics.
    pub points: Vec<Point>,
}

impl Guest {
    pub fn new(limits: &Limits, capabilities: &Arc<Capabilities>) -> Guest {
        Guest {
            memory: Memory { limit: limits.memory.as_usize(), ..Memory::default() },
            clock: Clock::new(),
            log: LogBuffer::default(),
            capabilities: Arc::clone(capabilities),
            tables: capabilities.tables.current(),
            now_ms: 0,
            determined: None,
            keeping: Keeping::default(),
            points: Vec::new(),
        }
    }
}

/// Linear memory of a guest, all its memories together.
#[derive(Default)]
pub(super) struct Memory {
    pub limit: usize,
    pub bytes: usize,
    /// The growth that was permitted last, to be taken back if it fails.
    granted: usize,
    /// What was refused last since this was last cleared.
    pub refused: Option<Refused>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    Memory,
    Table,
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current);
        let bytes = self.bytes.saturating_add(growth);
        if bytes > self.limit {
            self.granted = 0;
            self.refused = Some(Refused::Memory);
            return Ok(false);
        }
        self.granted = growth;
        self.bytes = bytes;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = Some(Refused::Memory);
        self.bytes -= std::mem::take(&mut self.granted);
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > MAX_TABLE_ELEMENTS {
            self.refused = Some(Refused::Table);
        }
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        (MAX_TABLES * MAX_CORE_INSTANCES) as usize
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES as usize
    }
}

/// Time of a call. What is spent in host calls does not count against the guest, but has the same
/// limit of its own.
pub(super) struct Clock {
    started: Instant,
    in_host: Duration,
    /// In host calls whose time is limited in another way.
    waited: Duration,
    limit: Duration,
}

impl Clock {
    fn new() -> Clock {
        Clock::of(Duration::ZERO)
    }

    fn of(limit: Duration) -> Clock {
        Clock { started: Instant::now(), in_host: Duration::ZERO, waited: Duration::ZERO, limit }
    }

    /// Starts a call that may take `limit`; returns the ticks until its end is to be looked at.
    pub fn start(&mut self, limit: Duration) -> u64 {
        *self = Clock::of(limit);
        ticks(limit)
    }

    /// Time since the start, without host calls.
    pub fn in_guest(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.in_host + self.waited)
    }

    /// Runs a host call.
    pub fn host_call<T>(
        guest: &mut Guest,
        call: impl FnOnce(&mut Guest) -> wasmtime::Result<T>,
    ) -> wasmtime::Result<T> {
        let entered = Instant::now();
        let result = call(guest);
        let clock = &mut guest.clock;
        clock.in_host += entered.elapsed();
        if clock.in_host > clock.limit {
            return Err(Stop::HostTime(clock.limit).into());
        }
        result
    }

    /// Runs a host call that waits for others, and limits that time itself.
    pub fn waiting<T>(
        guest: &mut Guest,
        call: impl FnOnce(&mut Guest) -> wasmtime::Result<T>,
    ) -> wasmtime::Result<T> {
        let entered = Instant::now();
        let result = call(guest);
        guest.clock.waited += entered.elapsed();
        result
    }
}

/// Called when the ticks of a call have gone by.
pub(super) fn deadline(store: StoreContextMut<'_, Guest>) -> wasmtime::Result<UpdateDeadline> {
    let clock = &store.data().clock;
    match clock.limit.checked_sub(clock.in_guest()) {
        Some(left) if !left.is_zero() => Ok(UpdateDeadline::Continue(ticks(left))),
        _ => Err(Stop::Timeout(clock.limit).into()),
    }
}

fn ticks(time: Duration) -> u64 {
    time.as_nanos().div_ceil(TICK.as_nanos()).clamp(1, u64::MAX as u128 / 2) as u64
}
