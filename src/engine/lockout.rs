//! Lockouts: a client that is denied too often is blocked, longer each time.
//!
//! A denied request is a *strike*. Enough strikes within a time begin a *block*, whose length is the next step
//! of a schedule. During a block every request is denied and nothing is counted. Some time after a block has
//! ended, the schedule starts over. `charge.lua` implements the same in Redis.

use std::time::Duration;

use smallvec::SmallVec;

use super::Timestamp;
use super::algorithm::MAX_EXACT;

/// Upper bound on the steps of a schedule.
pub const MAX_STEPS: usize = 16;
/// Upper bound on the counters that a lockout records for its lifting. Beyond it, the oldest record is dropped.
pub const MAX_STRUCK_COUNTERS: usize = 8;
/// Retry delay reported for a permanent block, which an operator may lift.
pub const RETRY_PERMANENT: Duration = Duration::from_secs(86_400);
/// End of a permanent block.
const NEVER: u64 = MAX_EXACT;

/// Schedule of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockoutSchedule {
    /// Strikes that begin a block; at least 1.
    pub after: u32,
    /// Time within which the strikes must fall, in seconds.
    pub within_secs: u32,
    /// Lengths of consecutive blocks; the last one repeats. From 1 to [`MAX_STEPS`] of them.
    pub steps: SmallVec<[Block; 4]>,
    /// Time after the end of a block, in seconds, after which the schedule starts over.
    pub forget_secs: u32,
    /// True if a request during a block restarts the block.
    pub extend: bool,
}

/// Length of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    /// Seconds.
    Secs(u32),
    /// Until an operator lifts it.
    Permanent,
}

/// Strikes and blocks of one client. Times are in microseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockoutState {
    /// End of the current or the last block.
    pub ends_us: u64,
    /// Blocks so far, which is the index of the next step.
    pub level: u8,
    /// Strikes towards the next block.
    pub strikes: u32,
    /// Time of the first of these strikes.
    pub first_strike_us: u64,
}

impl LockoutSchedule {
    /// The longest block.
    fn longest(&self) -> Block {
        self.steps.iter().copied().max().unwrap_or(Block::Secs(0))
    }
}

impl Block {
    fn end_us(self, now: Timestamp) -> u64 {
        match self {
            Self::Secs(secs) => now.as_micros().saturating_add(micros(secs)).min(NEVER - 1),
            Self::Permanent => NEVER,
        }
    }
}

impl LockoutState {
    /// Advances the state to `now`: drops strikes and steps that have expired, and clamps times that are
    /// further ahead than this schedule can reach. Such times were written under an older schedule, or by a
    /// clock that has since been set back. Returns whether it was clamped.
    pub fn load(&mut self, schedule: &LockoutSchedule, now: Timestamp) -> bool {
        let (now_us, held) = (now.as_micros(), *self);
        self.ends_us = self.ends_us.min(schedule.longest().end_us(now));
        self.first_strike_us = self.first_strike_us.min(now_us);
        self.level = self.level.min(u8::try_from(schedule.steps.len()).unwrap_or(u8::MAX));
        let is_corrected = *self != held;
        if self.ends_us != NEVER && self.ends_us.saturating_add(micros(schedule.forget_secs)) <= now_us {
            self.level = 0;
        }
        if self.first_strike_us.saturating_add(micros(schedule.within_secs)) <= now_us {
            self.strikes = 0;
        }
        is_corrected
    }

    /// Parses the format of `charge.lua`: `ends level strikes since`, then ` length:key` for each counter whose
    /// denial was a strike.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = text.split(|byte| *byte == b' ');
        let mut next = || std::str::from_utf8(fields.next()?).ok()?.parse::<u64>().ok();
        let (ends_us, level, strikes, first_strike_us) = (next()?, next()?, next()?, next()?);
        Some(Self {
            ends_us,
            level: level.try_into().ok()?,
            strikes: strikes.try_into().ok()?,
            first_strike_us,
        })
    }

    /// True if requests are denied at `now`.
    pub const fn is_blocked(&self, now: Timestamp) -> bool {
        now.as_micros() < self.ends_us
    }

    /// Adds a strike, which may begin a block.
    pub fn strike(&mut self, schedule: &LockoutSchedule, now: Timestamp) {
        if self.strikes == 0 {
            self.first_strike_us = now.as_micros();
        }
        self.strikes = self.strikes.saturating_add(1);
        if self.strikes >= schedule.after {
            let step = usize::from(self.level).min(schedule.steps.len().saturating_sub(1));
            self.ends_us = schedule.steps.get(step).map_or(0, |block| block.end_us(now));
            self.level = u8::try_from(step + 1).unwrap_or(u8::MAX);
            self.strikes = 0;
        }
    }

    /// Restarts the block if the schedule says so.
    pub fn extend_block(&mut self, schedule: &LockoutSchedule, now: Timestamp) {
        let step = usize::from(self.level).checked_sub(1);
        if let Some(block) = step.and_then(|step| schedule.steps.get(step)).filter(|_| schedule.extend) {
            self.ends_us = self.ends_us.max(block.end_us(now));
        }
    }

    /// True if there is nothing to remember.
    pub const fn is_empty(&self) -> bool {
        self.level == 0 && self.strikes == 0
    }

    /// Time, in microseconds since the epoch, from which the state equals an empty one; `None` for a permanent
    /// block.
    pub fn expires_us(&self, schedule: &LockoutSchedule) -> Option<u64> {
        let strikes = match self.strikes {
            0 => 0,
            _ => self.first_strike_us.saturating_add(micros(schedule.within_secs)),
        };
        let level = match self.level {
            0 => 0,
            _ => self.ends_us.saturating_add(micros(schedule.forget_secs)),
        };
        (self.level == 0 || self.ends_us != NEVER).then_some(strikes.max(level))
    }
}

/// Time from `now` to the end of a block at `ends_us`; [`RETRY_PERMANENT`] for a permanent one.
pub fn remaining(ends_us: u64, now: Timestamp) -> Duration {
    match ends_us {
        NEVER.. => RETRY_PERMANENT,
        _ => Timestamp::from_micros(ends_us).since(now),
    }
}

/// True if a block with this end is permanent.
pub const fn is_permanent(ends_us: u64) -> bool {
    ends_us >= NEVER
}

fn micros(secs: u32) -> u64 {
    u64::from(secs) * 1_000_000
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    fn schedule(after: u32) -> LockoutSchedule {
        let steps = smallvec![Block::Secs(60), Block::Secs(300), Block::Permanent];
        LockoutSchedule { after, within_secs: 600, steps, forget_secs: 86_400, extend: false }
    }

    /// The state after a strike at each of these times, in seconds, that does not fall into a block.
    fn after_strikes(schedule: &LockoutSchedule, times: &[u64]) -> LockoutState {
        let mut state = LockoutState::default();
        for secs in times {
            let now = Timestamp::from_secs(*secs);
            state.load(schedule, now);
            match state.is_blocked(now) {
                true => state.extend_block(schedule, now),
                false => state.strike(schedule, now),
            }
        }
        state
    }

    fn ends(schedule: &LockoutSchedule, times: &[u64]) -> u64 {
        after_strikes(schedule, times).ends_us / 1_000_000
    }

    #[test]
    fn each_block_is_the_next_step_and_the_last_one_stays() {
        let schedule = schedule(1);
        assert_eq!(ends(&schedule, &[1_000]), 1_060);
        assert_eq!(ends(&schedule, &[1_000, 1_060]), 1_360);
        assert!(is_permanent(after_strikes(&schedule, &[1_000, 1_060, 1_360]).ends_us));
        let climbing = LockoutSchedule { steps: smallvec![Block::Secs(60), Block::Secs(300)], ..schedule };
        assert_eq!(ends(&climbing, &[1_000, 1_060, 1_360, 1_700]), 2_000);
    }

    #[test]
    fn a_block_begins_with_the_last_of_enough_strikes_within_their_time() {
        let schedule = schedule(3);
        assert!(!after_strikes(&schedule, &[1_000, 1_100]).is_blocked(Timestamp::from_secs(1_100)));
        assert_eq!(ends(&schedule, &[1_000, 1_100, 1_599]), 1_659);
        assert_eq!(
            ends(&schedule, &[1_000, 1_100, 1_600]),
            0,
            "the first strike was forgotten, and those after it"
        );
        assert_eq!(ends(&schedule, &[1_000, 1_100, 1_600, 1_601, 1_602]), 1_662);
    }

    #[test]
    fn the_schedule_starts_over_after_a_clean_time() {
        let schedule = schedule(1);
        assert_eq!(ends(&schedule, &[1_000, 1_060 + 86_399]), 1_060 + 86_399 + 300);
        assert_eq!(ends(&schedule, &[1_000, 1_060 + 86_400]), 1_060 + 86_400 + 60);
    }

    #[test]
    fn a_block_ends_no_later_than_the_longest_of_the_schedule_from_now_on() {
        let schedule = |blocks: &[Block]| LockoutSchedule { steps: blocks.into(), ..schedule(1) };
        let (long, short) = (schedule(&[Block::Secs(9), Block::Permanent]), schedule(&[Block::Secs(60)]));
        // Under an older version of the rule, or by a clock that was a day ahead.
        for (before, times) in [(&long, &[1_000_u64, 1_010][..]), (&short, &[87_400])] {
            let mut state = after_strikes(before, times);
            let now = Timestamp::from_secs(1_020);
            state.load(&short, now);
            assert_eq!(state.ends_us, 1_080_000_000, "{times:?}");
            state.load(&short, Timestamp::from_secs(1_050));
            assert_eq!(state.ends_us, 1_080_000_000, "it is not put off");
            assert!(state.level <= 1);
        }
        let mut state = after_strikes(&long, &[1_000, 1_010]);
        state.load(&long, Timestamp::from_secs(1_020));
        assert!(is_permanent(state.ends_us));
        let mut striking =
            LockoutState { strikes: 1, first_strike_us: 90_000_000_000, ..LockoutState::default() };
        striking.load(&short, Timestamp::from_secs(1_020));
        assert_eq!(striking.first_strike_us, 1_020_000_000);
    }

    #[test]
    fn requests_during_a_block_restart_it_where_the_schedule_says_so() {
        let extending = LockoutSchedule { extend: true, ..schedule(1) };
        assert_eq!(ends(&extending, &[1_000, 1_030]), 1_090);
        assert_eq!(ends(&schedule(1), &[1_000, 1_030]), 1_060);
    }

    #[test]
    fn a_state_that_is_forgotten_is_as_if_it_had_never_been() {
        let schedule = schedule(2);
        for times in [&[1_000][..], &[1_000, 1_001], &[1_000, 1_001, 1_100], &[1_000, 1_001, 1_062, 1_063]] {
            let mut state = after_strikes(&schedule, times);
            let Some(expires_us) = state.expires_us(&schedule) else { panic!("{times:?}") };
            state.load(&schedule, Timestamp::from_micros(expires_us - 1));
            assert!(!state.is_empty(), "{times:?}");
            state.load(&schedule, Timestamp::from_micros(expires_us));
            assert!(state.is_empty(), "{times:?}");
        }
        let for_good = LockoutSchedule { steps: smallvec![Block::Permanent], ..schedule };
        let state = after_strikes(&for_good, &[1_000, 1_001]);
        assert_eq!(state.expires_us(&for_good), None);
        assert_eq!(remaining(state.ends_us, Timestamp::from_secs(5_000)), RETRY_PERMANENT);
    }
}
