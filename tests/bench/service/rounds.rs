//! Rounds, and what they come to.

use std::path::Path;
use std::time::Duration;

use crate::load::{Errors, Shape};
use crate::options::Options;
use crate::servers::{Redis, Service};

/// Services that are asked the same, the ceiling first.
pub(crate) struct Group<'a> {
    /// The requests.
    pub(crate) title: String,
    pub(crate) shape: Shape,
    pub(crate) subjects: Vec<Subject<'a>>,
}

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) name: &'static str,
    pub(crate) service: &'a Service,
    /// The Redis it counts in.
    pub(crate) redis: Option<&'a Redis>,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Requests that were answered in each second of the service's CPU time.
    pub(crate) per_cpu_second: f64,
    /// CPU time of Redis for each request, in microseconds.
    pub(crate) redis_us: Option<f64>,
    /// Requests in each second.
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) requests: u64,
    /// Requests that were not admitted, or not even sent.
    pub(crate) failed: u64,
    /// True if the load was slower than the service.
    pub(crate) saturated: bool,
}

/// Results of a group.
pub(crate) struct Measured {
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
}

/// Results of one service of a group: a sample of each round.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) samples: Vec<Sample>,
}

impl Row {
    /// The median of a figure.
    pub(crate) fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(figure).collect())
    }

    /// Results of `compare` on this one's sample and the other's of the same round: the least, the median and
    /// the most.
    pub(crate) fn against(&self, other: &Self, compare: impl Fn(&Sample, &Sample) -> f64) -> [f64; 3] {
        let compared: Vec<f64> =
            self.samples.iter().zip(&other.samples).map(|(own, other)| compare(own, other)).collect();
        let least = compared.iter().copied().fold(f64::INFINITY, f64::min);
        let most = compared.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        [least, median(compared), most]
    }
}

/// The middle one, or what lies between the two in the middle.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    let (low, high) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
    f64::midpoint(low, high)
}

/// Measures every group as often as was asked for, all of them in each round: what changes on the machine
/// meanwhile changes all of them alike.
pub(crate) async fn run(groups: &[Group<'_>], options: &Options) -> Vec<Measured> {
    let rows = |group: &Group<'_>| {
        group.subjects.iter().map(|subject| Row { name: subject.name, samples: Vec::new() }).collect()
    };
    let mut measured: Vec<_> =
        groups.iter().map(|group| Measured { title: group.title.clone(), rows: rows(group) }).collect();
    let program = options.program();
    for group in groups {
        for subject in &group.subjects {
            eprintln!("filling: {}: {}", group.title, subject.name);
            group.shape.fill(&program, &subject.service.address).await;
        }
    }
    for round in 1..=options.rounds {
        for (group, measured) in groups.iter().zip(&mut measured) {
            for (subject, row) in group.subjects.iter().zip(&mut measured.rows) {
                let lasting = Duration::from_secs(options.seconds.into());
                let sample = subject.measure(&group.shape, &program, lasting).await;
                let Sample { per_cpu_second, per_second, p99_us, .. } = sample;
                eprintln!(
                    "round {round}/{}: {}: {}: {per_cpu_second:.0} per CPU second, {per_second:.0} per second, \
                     p99 {p99_us:.0} µs",
                    options.rounds, group.title, row.name
                );
                row.samples.push(sample);
            }
        }
    }
    measured
}

impl Subject<'_> {
    #[expect(clippy::cast_precision_loss, reason = "few")]
    async fn measure(&self, shape: &Shape, program: &Path, lasting: Duration) -> Sample {
        let redis_seconds = || self.redis.map(Redis::cpu_seconds);
        let (cpu_before, redis_before) = (self.service.cpu_seconds(), redis_seconds());
        let report = shape.send(program, &self.service.address, lasting).await;
        let (cpu, redis) = (self.service.cpu_seconds() - cpu_before, redis_seconds());
        for (code, Errors { count, example }) in &report.errors_by_code {
            eprintln!("{count} of {} requests: {code}: {example}", report.requests);
        }
        if report.unsent > 0 {
            eprintln!("{} requests were not sent", report.unsent);
        }
        assert_eq!(report.denied, 0, "limits are higher than that");
        // Else some would have waited in the load, and fewer been in flight than the table says.
        assert_eq!(report.connection_bound, None, "a connection takes all that it is to have");
        let decided = report.decided();
        let requests = decided as f64;
        Sample {
            per_cpu_second: requests / cpu,
            redis_us: redis.zip(redis_before).map(|(after, before)| 1e6 * (after - before) / requests),
            per_second: report.requests_per_second,
            p50_us: report.latency_us.p50,
            p99_us: report.latency_us.p99,
            requests: report.requests + report.unsent,
            failed: report.requests - decided + report.unsent,
            saturated: report.generator_saturated,
        }
    }
}
