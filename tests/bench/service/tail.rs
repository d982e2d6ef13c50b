//! Tail latency at a steady rate, while something else goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::cases::{self, World};
use crate::load::Shape;
use crate::options::Options;
use crate::rounds::{Measured, Row, Subject};
use crate::servers::{Service, Setup};

/// Rules of a service whose file is replaced.
const RULES: u32 = 100_000;
/// Time from one replacement to the next.
const RELOAD_EVERY: Duration = Duration::from_millis(1_500);

/// Rules under which every counter ends with its second.
const EXPIRING: &str = "\
domain: bench
descriptors:
  - key: user
    rate_limit: {unit: second, requests_per_unit: 4000000000}
";

/// The services that are started for this alone.
pub(crate) struct Services {
    ageing: Service,
    reloaded: Service,
    expiring: Service,
}

/// Events during a measurement.
#[derive(Clone, Copy)]
enum Meanwhile<'a> {
    Nothing,
    /// A thread never waits, and takes as much of a core as it gets.
    BusyCore,
    /// The rules of this service are replaced again and again.
    Reloads(&'a Service),
}

/// One line of the table.
struct Case<'a> {
    title: &'static str,
    meanwhile: Meanwhile<'a>,
    subject: Subject<'a>,
}

impl Services {
    /// Starts them.
    pub(crate) async fn start(options: &Options) -> Self {
        let program = options.program();
        let ageing = Setup { args: &["--grpc-max-connection-age", "1s"], ..Setup::default() };
        Self {
            ageing: Service::tollgate(&program, cases::rules(), ageing).await,
            reloaded: Service::tollgate(&program, &many_rules(0), Setup::default()).await,
            expiring: Service::tollgate(&program, EXPIRING, Setup::default()).await,
        }
    }
}

/// 100,000 rules beside the one that requests match, whose limit differs from version to version.
fn many_rules(version: u32) -> String {
    let limit = format!("{{unit: year, requests_per_unit: {}}}", 4_000_000_000 - version);
    format!("{}  - {{key: user, rate_limit: {limit}}}\n", cases::tenants(RULES))
}

fn list<'a>(world: &'a World, services: &'a Services) -> Vec<Case<'a>> {
    let mut cases = Vec::new();
    for (title, meanwhile) in
        [("nothing else", Meanwhile::Nothing), ("one core is busy", Meanwhile::BusyCore)]
    {
        let subjects = [world.ceiling(), world.embedded(), world.on_redis()];
        cases.extend(subjects.map(|subject| Case { title, meanwhile, subject }));
    }
    let own = |service| Subject { services: vec![service], ..world.embedded() };
    cases.extend([
        Case {
            title: "connections close when they are 1 s old",
            meanwhile: Meanwhile::Nothing,
            subject: own(&services.ageing),
        },
        Case {
            title: "100,000 rules are replaced every 1.5 s",
            meanwhile: Meanwhile::Reloads(&services.reloaded),
            subject: own(&services.reloaded),
        },
        Case {
            title: "every counter expires after 1 s",
            meanwhile: Meanwhile::Nothing,
            subject: own(&services.expiring),
        },
        Case { title: "leases end after 100 ms", meanwhile: Meanwhile::Nothing, subject: world.leased() },
    ]);
    cases
}

/// A thread that does something until this is dropped.
struct Background {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start(mut step: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let has_ended = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !has_ended.load(Ordering::Relaxed) {
                step();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            thread.join().expect("it does not panic");
        }
    }
}

impl Meanwhile<'_> {
    fn begin(self) -> Option<Background> {
        match self {
            Self::Nothing => None,
            Self::BusyCore => Some(Background::start(std::hint::spin_loop)),
            Self::Reloads(service) => {
                let (rules, mut version) = (service.rules(), 0);
                Some(Background::start(move || {
                    version += 1;
                    rules.replace(&many_rules(version));
                    thread::park_timeout(RELOAD_EVERY);
                }))
            }
        }
    }
}

/// Measures each case in every round, for twice the time of other measurements, so that it includes rare events.
pub(crate) async fn run(
    world: &World,
    services: &Services,
    shape: &Shape,
    options: &Options,
) -> Vec<Measured> {
    let (program, cases) = (options.program(), list(world, services));
    let lasting = Duration::from_secs(2 * u64::from(options.seconds));
    let row = |case: &Case<'_>| Measured {
        title: case.title.to_owned(),
        rows: vec![Row { name: case.subject.name, samples: Vec::new() }],
    };
    let mut measured: Vec<_> = cases.iter().map(row).collect();
    for round in 1..=options.rounds {
        for (case, measured) in cases.iter().zip(&mut measured) {
            let background = case.meanwhile.begin();
            let sample = case.subject.measure(shape, &program, lasting).await;
            drop(background);
            let (name, p99, p999) = (case.subject.name, sample.p99_us, sample.p999_us);
            eprintln!(
                "round {round}/{}: {}: {name}: p99 {p99:.0} µs, p99.9 {p999:.0} µs",
                options.rounds, case.title
            );
            measured.rows[0].samples.push(sample);
        }
    }
    measured
}
