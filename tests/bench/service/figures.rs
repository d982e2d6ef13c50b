//! Figures that are not about requests: time to compile many rules, and memory of counters.

use std::fs;
use std::process::Command;

use tokio::time::Instant;
use tollgate::engine::{Entry, KeyDomain, KeyWriter, Limit, Unit};

use crate::cases;
use crate::options::{Case, Options};
use crate::rounds::median;
use crate::servers::{Service, Setup};
use crate::table::table_of;

const RULES: u32 = 100_000;

/// Tables of counters double when they are seven eighths full. These are numbers shortly before and after.
const KEYS: [u32; 2] = [850_000, 1_000_000];

/// A table of both; `None` where neither was asked for.
pub(crate) async fn table(options: &Options) -> Option<String> {
    let mut rows = Vec::new();
    if options.wants(Case::Compile) {
        rows.push(["reading and compiling 100,000 rules (`tollgate check`)".to_owned(), compile(options)]);
    }
    if options.wants(Case::Memory) {
        rows.extend(memory(options).await);
    }
    (!rows.is_empty()).then(|| table_of(["what", "figure"], rows))
}

/// The whole life of a process that reads, compiles and ends.
fn compile(options: &Options) -> String {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("rules.yaml");
    fs::write(&path, cases::tenants(RULES)).expect("a file");
    let once = |round| {
        eprintln!("compiling: {round}/{}", options.rounds);
        let began = Instant::now();
        let output = Command::new(options.program()).env_clear().arg("check").arg(&path).output();
        let took = began.elapsed();
        let printed = String::from_utf8(output.expect("the program runs").stdout).expect("text");
        assert!(printed.starts_with("OK: 100000 rules"), "{printed}");
        took.as_secs_f64() * 1e3
    };
    format!("{:.0} ms", median((1..=options.rounds).map(once).collect()))
}

/// By how much a process grows when it gets counters.
async fn memory(options: &Options) -> Vec<[String; 2]> {
    let program = options.program();
    let service = Service::tollgate(&program, cases::rules(), Setup::default()).await;
    // What requests take, whatever they count, it takes now.
    cases::asking_for(1).fill(&program, &service.address).await;
    let (before, counters_before) = (service.resident_bytes(), service.counters().await);
    let mut rows =
        vec![["memory before the first counter".to_owned(), format!("{:.0} MiB", before / 1_048_576.0)]];
    for keys in KEYS {
        eprintln!("filling: memory: {keys} keys");
        cases::asking_for(keys).fill(&program, &service.address).await;
        let counters = service.counters().await - counters_before;
        let each = (service.resident_bytes() - before) / f64::from(counters);
        let (counters, key) = (cases::thousands(counters), key_bytes());
        rows.push([
            format!("memory for each of {counters} counters, beside its key of {key} bytes"),
            format!("{:.0} bytes", each - f64::from(key)),
        ]);
    }
    rows
}

/// The length of nearly every one of their keys.
fn key_bytes() -> u32 {
    let entry = Entry { key: b"user", value: b"123456" };
    let domain = KeyDomain { name: b"bench", hash_tag: None, only_limit: true };
    let key = KeyWriter::default().key(domain, &[entry], None, Limit::per(1, Unit::Year));
    u32::try_from(key.len()).expect("short")
}
