//! Supervision: a core that hangs, in the running program.

use std::fs;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use reqwest::Client;

use crate::support::process::Process;
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

const RULES: &str = "domain: shop\ndescriptors:\n  - key: user\n    rate_limit: 1000/hour\n";
const BODY: &str = r#"{"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "a"}]}]}"#;

/// One thread of a process, stopped until this is dropped. Belongs to the thread that made it.
struct Stopped(Pid);

impl Stopped {
    fn thread(process: &Process, name: &str) -> Self {
        let threads = fs::read_dir(format!("/proc/{}/task", process.id())).expect("its threads");
        let threads = threads.map(|entry| entry.expect("a thread").path());
        let is_wanted = |path: &std::path::PathBuf| {
            fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let path = threads.into_iter().find(is_wanted).expect("a thread of this name");
        let id = path.file_name().and_then(|id| id.to_str()).and_then(|id| id.parse().ok());
        let thread = Pid::from_raw(id.expect("a number"));
        ptrace::attach(thread).expect("a process of our own");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
        Self(thread)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if ptrace::detach(self.0, None).is_err() {
            // The process has ended, and nobody else may wait for this thread of it.
            waitpid(self.0, Some(WaitPidFlag::__WALL)).ok();
        }
    }
}

/// A call over a connection of its own.
async fn call(service: &Tollgate) -> bool {
    let client = Client::builder().timeout(Duration::from_secs(5)).build().expect("a client");
    client.post(service.url("/json")).body(BODY).send().await.is_ok_and(|answer| answer.status() == 200)
}

#[tokio::test]
async fn a_stalled_core_gets_no_new_connections_until_it_recovers() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[("THREADS", "3")]).await;
    let stopped = Stopped::thread(&service.process, "tollgate-core-1");
    let has_logged = async |line: &str| service.process.output().contains(line);
    eventually("the core is found stalled", async || has_logged("core stalled").await).await;
    for _ in 0..30 {
        assert!(call(&service).await, "{}", service.process.output());
    }
    drop(stopped);
    eventually("the core recovers", async || has_logged("core recovered").await).await;
    for _ in 0..6 {
        assert!(call(&service).await, "{}", service.process.output());
    }
}

#[tokio::test]
async fn a_core_that_stays_stalled_ends_the_process_under_its_name() {
    let mut service = Tollgate::start(&[("rules.yaml", RULES)], &[("THREADS", "2")]).await;
    let stopped = Stopped::thread(&service.process, "tollgate-core-0");
    eventually("the core is given up", async || {
        let output = service.process.output();
        output.contains("tollgate-core-0") && output.contains("no heartbeat for 10 seconds")
    })
    .await;
    drop(stopped);
    assert_eq!(service.process.exit_code(PATIENCE).await, Some(1));
}
