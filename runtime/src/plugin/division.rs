//! How many messages go into a call: by the time they take, and after a fault ever fewer, until the
//! message that causes it stands alone (P4).

use std::time::Duration;

/// Time that a call should take: long enough that crossing the boundary costs nothing, short enough
/// that a lane does not sit in one.
const TARGET: Duration = Duration::from_millis(10);
/// Before anything is known: a plugin that takes 60 ms a message is not divided for it.
const FIRST_ROWS: usize = 8;
/// A call is at most that many times larger than the last.
const GROWTH: usize = 4;
/// Weight of the last call in the mean, as a share.
const WEIGHT: f64 = 0.25;

/// Sizes calls by the time they take.
pub(super) struct Pace {
    rows: usize,
    nanos_per_row: Option<f64>,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { rows: FIRST_ROWS, nanos_per_row: None }
    }
}

impl Pace {
    /// How many rows the next call should have.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A call of `rows` went well in that time.
    pub fn took(&mut self, rows: usize, time: Duration) {
        let now = time.as_nanos() as f64 / rows as f64;
        let mean = self.nanos_per_row.map_or(now, |mean| mean + (now - mean) * WEIGHT);
        self.nanos_per_row = Some(mean);
        let fit = TARGET.as_nanos() as f64 / mean.max(1.0);
        self.rows = (fit as usize).clamp(1, self.rows.saturating_mul(GROWTH));
    }
}

/// Closes in on the message that makes calls fail.
///
/// Of `n` messages in a failed call with one such message in it, at most `log2(n) + 1` calls fail,
/// that call and the last included: 9 of 256.
pub(super) struct Division {
    /// The message is before this row.
    suspect_end: usize,
    /// Grows again after a message was found: there may be more like it.
    most: usize,
}

impl Default for Division {
    fn default() -> Division {
        Division { suspect_end: 0, most: usize::MAX }
    }
}

impl Division {
    /// How many rows a call that begins with `first` may have, if `wanted` would be right.
    pub fn rows(&self, wanted: usize, first: usize) -> usize {
        let wanted = wanted.min(self.most);
        match self.suspect_end.checked_sub(first) {
            Some(suspects @ 1..) => wanted.min(suspects.div_ceil(2)).max(1),
            _ => wanted,
        }
    }

    /// A call of several rows, up to this one, failed.
    pub fn failed(&mut self, end: usize) {
        self.suspect_end = end;
    }

    /// A row failed alone.
    pub fn found(&mut self) {
        self.suspect_end = 0;
        self.most = 1;
    }

    pub fn went_well(&mut self) {
        self.most = self.most.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls that fail, and the rows found, with these poisonous rows.
    fn divide(rows: usize, poison: &[usize]) -> (usize, Vec<usize>) {
        let (mut division, mut next, mut failures, mut found) = (Division::default(), 0, 0, Vec::new());
        while next < rows {
            let size = division.rows(usize::MAX, next).min(rows - next);
            assert!(size > 0);
            if !poison.iter().any(|row| (next..next + size).contains(row)) {
                division.went_well();
            } else {
                failures += 1;
                assert!(failures < 10_000, "it never ends");
                if size > 1 {
                    division.failed(next + size);
                    continue;
                }
                division.found();
                found.push(next);
            }
            next += size;
        }
        (failures, found)
    }

    #[test]
    fn p4_one_of_any_number_is_found_in_few_failures() {
        for rows in 1..=256 {
            for poison in 0..rows {
                let (failures, found) = divide(rows, &[poison]);
                assert_eq!(found, [poison]);
                let most = rows.next_power_of_two().ilog2() as usize + 1;
                assert!(failures <= most, "{failures} failures to find {poison} of {rows}");
            }
        }
    }

    #[test]
    fn p4_all_of_them_are_found() {
        let all: Vec<usize> = (0..256).collect();
        let (failures, found) = divide(256, &all);
        assert_eq!(found, all);
        assert!(failures <= 256 + 8, "{failures} failures");
        assert_eq!(divide(256, &[3, 4, 200, 255]).1, [3, 4, 200, 255]);
    }

    #[test]
    fn calls_grow_towards_their_time_and_shrink_at_once() {
        let mut pace = Pace::default();
        for rows in [FIRST_ROWS, 32, 128, 512] {
            assert_eq!(pace.rows(), rows);
            pace.took(rows, Duration::from_micros(rows as u64));
        }
        pace.took(512, Duration::from_secs(5));
        assert!(pace.rows() < 10, "{}", pace.rows());
        let mut slow = Pace::default();
        slow.took(8, Duration::from_millis(800));
        assert_eq!(slow.rows(), 1);
    }
}
