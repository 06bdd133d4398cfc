//! When a message is tried again: the delays of `[retry]`.

use std::time::Duration;

use crate::config::{Retry, Strategy};

/// The longest exponent that matters: 2^63 base delays are past any `max_delay`.
const LAST_DOUBLING: u32 = 63;

/// The delay after failed attempt number `attempt`, counted from 0:
/// `exponential` base * 2^attempt, `fixed` base, `jittered` evenly between 0 and what
/// `exponential` gives; never more than `max_delay`. `random` is between 0 and 1.
pub fn delay(retry: &Retry, attempt: u32, random: f64) -> Duration {
    let (base, max) = (retry.base_delay.0, retry.max_delay.0);
    let exponential = || {
        let factor = 1u64 << attempt.min(LAST_DOUBLING);
        let nanos = base.as_nanos().saturating_mul(u128::from(factor));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(max)
    };
    match retry.strategy {
        Strategy::Fixed => base.min(max),
        Strategy::Exponential => exponential(),
        Strategy::Jittered => exponential().mul_f64(random.clamp(0.0, 1.0)),
    }
}

/// As [`delay`], with a random number of its own, and not before what the other side asked for.
pub fn next_delay(retry: &Retry, attempt: u32, asked_for: Option<Duration>) -> Duration {
    delay(retry, attempt, rand::random::<f64>()).max(asked_for.unwrap_or_default())
}

/// The delay before the next try of something that is not there: grows as `exponential` does,
/// between half of it and all of it, so that many pipelines do not come back at the same moment.
pub fn unavailable_delay(retry: &Retry, tries: u32, asked_for: Option<Duration>) -> Duration {
    let whole = delay(&Retry { strategy: Strategy::Exponential, ..retry.clone() }, tries, 1.0);
    whole.mul_f64(rand::random_range(0.5..=1.0)).max(asked_for.unwrap_or_default())
}

/// The same where the other side may have refused our credentials, which does not get better quickly.
pub fn absent_delay(retry: &Retry, tries: u32, asked_for: Option<Duration>, credentials: bool) -> Duration {
    match credentials {
        true => retry.max_delay.0.max(asked_for.unwrap_or_default()),
        false => unavailable_delay(retry, tries, asked_for),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::units::Interval;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    fn retry(strategy: Strategy, base: u64, max: u64) -> Retry {
        Retry {
            strategy,
            base_delay: Interval::millis(base),
            max_delay: Interval::millis(max),
            max_attempts: 5,
        }
    }

    proptest! {
        #[test]
        fn delays_follow_their_formulas(
            base in 0u64..100_000, max in 0u64..10_000_000, attempt in 0u32..200, random in 0f64..=1.0,
        ) {
            let exact = u128::from(base) << attempt.min(64);
            let exponential = Duration::from_millis(u64::try_from(exact.min(u128::from(max))).unwrap());
            let of = |strategy| delay(&retry(strategy, base, max), attempt, random);
            prop_assert_eq!(of(Strategy::Exponential), exponential);
            prop_assert_eq!(of(Strategy::Fixed), Duration::from_millis(base.min(max)));
            prop_assert_eq!(of(Strategy::Jittered), exponential.mul_f64(random));
            let next = next_delay(&retry(Strategy::Jittered, base, max), attempt, None);
            prop_assert!(next <= exponential);
            let asked = Duration::from_secs(3);
            prop_assert!(next_delay(&retry(Strategy::Fixed, base, max), attempt, Some(asked)) >= asked);
            let unavailable = unavailable_delay(&retry(Strategy::Jittered, base, max), attempt, None);
            prop_assert!(unavailable <= exponential && unavailable >= exponential.mul_f64(0.499));
        }
    }
}
