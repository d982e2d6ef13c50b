//! The neutral model of metrics: definitions and values. `snapshot.rs` collects the values for the exporters.
//!
//! # How to add a metric
//!
//! 1. `definitions.rs`: a line with its kind, name, labels and help text.
//! 2. Report its values to each snapshot:
//!
//!    ```ignore
//!    metrics.register(move |snapshot| {
//!        for certificate in store.certificates() {
//!            snapshot.add(&definitions::CERTIFICATE_EXPIRY, [certificate.path()], certificate.expires_at());
//!        }
//!    });
//!    ```
//!
//!    The code that counts keeps its own atomics. They are read only for a scrape or an export.
//! 3. `docs/metrics.md`: a line; a test compares it with the definition.
//!
//! Every exporter shows it from then on: Prometheus and OTLP by name and labels, `/stats`, statsd and
//! DogStatsD under its flat name.

use std::time::Duration;

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A sum that only grows.
    Counter,
    /// A value that rises and falls.
    Gauge,
    /// Durations by bucket, in seconds.
    Histogram,
}

/// Definition of a metric: a family of series that differ in the values of their labels.
#[derive(Debug)]
pub struct Metric {
    /// Name in Prometheus and OTLP. Unique.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    pub(super) help: &'static str,
    pub(super) flat: Flat,
}

/// Name for outputs without labels: `/stats`, statsd and DogStatsD.
#[derive(Debug)]
pub(super) enum Flat {
    /// `tollgate_store_errors` with the label `rejected` is `tollgate.store_errors.rejected`.
    Derived,
    /// The name in envoyproxy/ratelimit, with `{}` in place of the label.
    Of(&'static str),
    /// The name of a counter that envoyproxy/ratelimit reports as a gauge.
    GaugeOf(&'static str),
    /// Not shown, because it has no meaning without labels.
    None,
}

impl Metric {
    /// Help text on one line.
    pub fn help(&self) -> &'static str {
        self.help.trim()
    }

    /// Flat name of the series with these label values.
    pub(super) fn flat_name<'a>(&self, mut labels: impl Iterator<Item = &'a str>) -> Option<String> {
        match self.flat {
            Flat::None => None,
            Flat::Derived => {
                Some(labels.fold(self.name.replacen('_', ".", 1), |name, label| name + "." + label))
            }
            Flat::Of(template) | Flat::GaugeOf(template) => {
                Some(labels.next().map_or(template.to_owned(), |label| template.replacen("{}", label, 1)))
            }
        }
    }

    pub(super) const fn flat_kind(&self) -> Kind {
        match self.flat {
            Flat::GaugeOf(_) => Kind::Gauge,
            Flat::Derived | Flat::Of(_) | Flat::None => self.kind,
        }
    }
}

/// Value of a series at one time.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Integer(u64),
    /// Any other number.
    Float(f64),
    /// Durations by bucket.
    Histogram(Distribution),
}

impl Value {
    /// The number; for a histogram, the number of its values.
    pub(super) fn as_f64(&self) -> f64 {
        match self {
            Self::Integer(value) => *value as f64,
            Self::Float(value) => *value,
            Self::Histogram(distribution) => distribution.count() as f64,
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Integer(sum), Self::Integer(value)) => *sum = sum.saturating_add(value),
            (Self::Histogram(sum), Self::Histogram(value)) => sum.add(&value),
            (sum, value) => *self = Self::Float(sum.as_f64() + value.as_f64()),
        }
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Integer(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Integer(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Integer(value.into())
    }
}

impl From<Distribution> for Value {
    fn from(value: Distribution) -> Self {
        Self::Histogram(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<Duration> for Value {
    /// In seconds.
    fn from(value: Duration) -> Self {
        Self::Float(value.as_secs_f64())
    }
}

/// Durations by bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Upper bounds in seconds, ascending. One more bucket has the values above the last bound.
    pub(super) bounds: &'static [f64],
    /// Number of values in each bucket, not cumulative: one more than there are bounds.
    pub(super) counts: Vec<u64>,
    /// Sum of all values in seconds.
    pub(super) sum_secs: f64,
}

impl Distribution {
    /// Values that were added since `older`, a distribution of the same histogram.
    #[must_use]
    pub fn since(&self, older: &Self) -> Self {
        let counts = self.counts.iter().zip(&older.counts);
        Self {
            bounds: self.bounds,
            counts: counts.map(|(count, older)| count.saturating_sub(*older)).collect(),
            sum_secs: self.sum_secs - older.sum_secs,
        }
    }

    /// Value in seconds that a share `q` of all values does not exceed, interpolated within its bucket; `None`
    /// without values. Values above every bound count as the last bound.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        let rank = q * count as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, in_bucket) in self.bounds.iter().zip(&self.counts) {
            let in_bucket = *in_bucket as f64;
            if in_bucket > 0.0 && below + in_bucket >= rank {
                return Some(lower + (bound - lower) * ((rank - below) / in_bucket));
            }
            (below, lower) = (below + in_bucket, *bound);
        }
        (count > 0).then_some(lower)
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum += count;
        }
        self.sum_secs += other.sum_secs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_within_their_buckets_and_ignore_older_values() {
        let of = |counts: &[u64]| Distribution {
            bounds: &[1.0, 2.0, 4.0],
            counts: counts.to_vec(),
            sum_secs: 0.0,
        };
        assert_eq!(of(&[0, 0, 0, 0]).quantile(0.5), None);
        assert_eq!(of(&[10, 10, 0, 0]).quantile(0.5), Some(1.0));
        assert_eq!(of(&[10, 10, 0, 0]).quantile(0.75), Some(1.5));
        assert_eq!(of(&[0, 0, 4, 0]).quantile(0.25), Some(2.5));
        assert_eq!(of(&[1, 0, 0, 9]).quantile(0.99), Some(4.0));
        let recent = of(&[100, 4, 0, 0]).since(&of(&[100, 0, 0, 0]));
        assert_eq!((recent.count(), recent.quantile(0.5)), (4, Some(1.5)));
    }
}
