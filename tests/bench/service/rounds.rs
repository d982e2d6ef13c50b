//! Rounds, and what they come to.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;

use crate::load::{Errors, Report, Shape};
use crate::options::Options;
use crate::servers::{Redis, Service};

/// Name of the service that decides nothing.
pub(crate) const CEILING: &str = "ceiling";

/// Services that are asked the same.
pub(crate) struct Group<'a> {
    /// The requests.
    pub(crate) title: String,
    pub(crate) shape: Shape,
    pub(crate) subjects: Vec<Subject<'a>>,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct Subject<'a> {
    pub(crate) name: &'static str,
    /// Its processes, which share the requests.
    pub(crate) services: Vec<&'a Service>,
    /// The Redis it counts in.
    pub(crate) redis: Option<&'a Redis>,
    /// Domain that it is asked for in place of the group's.
    pub(crate) domain: Option<&'static str>,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Requests that were answered in each second of the service's CPU time.
    pub(crate) per_cpu_second: f64,
    /// CPU time of Redis for each request, in microseconds.
    pub(crate) redis_us: Option<f64>,
    /// CPU time of Redis for one `INCRBY` in batches of 16, in microseconds, in the same round.
    pub(crate) incrby_us: Option<f64>,
    /// Commands that Redis carried out for each request, those of scripts included.
    pub(crate) redis_commands: Option<f64>,
    /// Requests in each second.
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
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

impl Measured {
    /// The service that everything is compared with, if it was measured.
    pub(crate) fn ceiling(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == CEILING)
    }
}

impl Row {
    /// True if it counts in Redis.
    pub(crate) fn is_on_redis(&self) -> bool {
        self.samples.iter().all(|sample| sample.redis_us.is_some())
    }

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
            if let [service, ..] = &*subject.services {
                subject.shape(&group.shape).fill(&program, &service.address).await;
            }
        }
    }
    for round in 1..=options.rounds {
        let redis = groups.iter().flat_map(|group| &group.subjects).find_map(|subject| subject.redis);
        let incrby_us = redis.map(Redis::incrby_us);
        for (group, measured) in groups.iter().zip(&mut measured) {
            for (subject, row) in group.subjects.iter().zip(&mut measured.rows) {
                let lasting = Duration::from_secs(options.seconds.into());
                let sample = subject.measure(&group.shape, &program, lasting).await;
                let incrby_us = incrby_us.filter(|_| sample.redis_us.is_some());
                let sample = Sample { incrby_us, ..sample };
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
    /// The requests that it is asked.
    fn shape(&self, shape: &Shape) -> Shape {
        Shape { domain: self.domain.unwrap_or(shape.domain), ..shape.clone() }
    }

    /// Sends requests for so long.
    pub(crate) async fn measure(&self, shape: &Shape, program: &Path, lasting: Duration) -> Sample {
        let cpu_seconds = || self.services.iter().map(|service| service.cpu_seconds()).sum::<f64>();
        let redis_seconds = || self.redis.map(Redis::cpu_seconds);
        let redis_commands = || self.redis.map(Redis::commands);
        // Each process gets its share of the requests, at the same time.
        let shape = self.shape(shape).divided_by(self.services.len());
        let commands_before = redis_commands();
        let (cpu_before, redis_before) = (cpu_seconds(), redis_seconds());
        let sent = self.services.iter().map(|service| shape.send(program, &service.address, lasting));
        let reports = join_all(sent).await;
        let (cpu, redis) = (cpu_seconds() - cpu_before, redis_seconds());
        let commands = redis_commands();
        reports.iter().for_each(check);
        let requests = sum(&reports, |report| report.decided() as f64);
        let sent = reports.iter().map(|report| report.requests + report.unsent).sum();
        let decided: u64 = reports.iter().map(Report::decided).sum();
        let mean = |of: fn(&Report) -> f64| sum(&reports, of) / reports.len() as f64;
        let each = |(after, before): (f64, f64)| (after - before) / requests;
        Sample {
            per_cpu_second: requests / cpu,
            redis_us: redis.zip(redis_before).map(|times| 1e6 * each(times)),
            incrby_us: None,
            redis_commands: commands.zip(commands_before).map(each),
            per_second: sum(&reports, |report| report.requests_per_second),
            p50_us: mean(|report| report.latency_us.p50),
            p99_us: mean(|report| report.latency_us.p99),
            p999_us: mean(|report| report.latency_us.p999),
            requests: sent,
            failed: sent - decided,
            saturated: reports.iter().any(|report| report.generator_saturated),
        }
    }
}

fn sum(reports: &[Report], of: impl Fn(&Report) -> f64) -> f64 {
    reports.iter().map(of).sum()
}

/// Prints what went wrong. Panics if the load was not what it should be.
fn check(report: &Report) {
    for (code, Errors { count, example }) in &report.errors_by_code {
        eprintln!("{count} of {} requests: {code}: {example}", report.requests);
    }
    if report.unsent > 0 {
        eprintln!("{} requests were not sent", report.unsent);
    }
    assert_eq!(report.denied, 0, "limits are higher than that");
    // Else some would have waited in the load, and fewer been in flight than the table says.
    assert_eq!(report.connection_bound, None, "a connection takes all that it is to have");
}
