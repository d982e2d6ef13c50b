//! Protocol of `sliding_window.lua` and `token_bucket.lua`, whose requests have one charge each.

use bytes::{Bytes, BytesMut};

use super::SlotCharge;
use super::msgpack::{array, digits, number};
use super::protocol::{RawReading, level_of};
use crate::engine::algorithm::Ticks;
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::{Algorithm, Timestamp};

/// Requests of one call.
#[derive(Debug, Default)]
pub(super) struct Singles {
    /// Requests that differ in their counters alone have one form.
    forms: Vec<SlotCharge>,
    of_requests: Vec<u8>,
}

impl Singles {
    /// Adds a request. Returns its position.
    pub(super) fn add(&mut self, charge: &SlotCharge) -> usize {
        // The first jitter of the TTL serves all of the form.
        let same = |form: &SlotCharge| (form.limit, form.hits) == (charge.limit, charge.hits);
        let form = self.forms.iter().position(same).unwrap_or_else(|| {
            self.forms.push(charge.clone());
            self.forms.len() - 1
        });
        self.of_requests.push(u8::try_from(form + 1).unwrap_or_default());
        self.of_requests.len() - 1
    }

    /// Arguments of the script, without now.
    pub(super) fn arguments(&self) -> [Bytes; 2] {
        let mut packed = BytesMut::new();
        array(&mut packed, self.forms.len());
        for charge in &self.forms {
            let Ticks { tick_us, window, .. } = Ticks::of(charge.limit, charge.now);
            let is_bucket = is_bucket(charge);
            array(&mut packed, if is_bucket { 7 } else { 5 });
            for one in [charge.added_hits(), charge.ceiling(), window, tick_us] {
                number(&mut packed, one);
            }
            digits(&mut packed, charge.ttl_secs.into());
            if is_bucket {
                number(&mut packed, charge.limit.requests_per_unit.into());
                number(&mut packed, (2 * u64::from(charge.limit.capacity()) + 1).saturating_mul(window));
            }
        }
        [Bytes::copy_from_slice(&self.of_requests), packed.freeze()]
    }

    /// The reading of the request at `position`; `None` if the reply has none.
    pub(super) fn seen(&self, position: usize, reply: &[i64]) -> Option<RawReading> {
        let (now, numbers) = reply.split_last()?;
        let each = if is_bucket(self.forms.first()?) { 2 } else { 3 };
        let (level, more) = numbers.chunks(each).nth(position)?.split_first()?;
        let (passed, level) = level_of(*level)?;
        Some(RawReading {
            budget: None,
            outcome: Some(if passed { ChargeOutcome::Charged } else { ChargeOutcome::Denied }),
            level,
            more: [*more.first()?, more.get(1).copied().unwrap_or(0)],
            ends_us: 0,
            now: Timestamp::from_micros(u64::try_from(*now).ok()?),
        })
    }
}

const fn is_bucket(charge: &SlotCharge) -> bool {
    matches!(charge.limit.algorithm, Algorithm::TokenBucket { .. })
}
