//! Supervision, in the running program: a core that hangs, and tasks that end.

use std::fs;
use std::net::{Shutdown, TcpStream};
use std::os::fd::RawFd;
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use reqwest::Client;
use rustix::process::{Pid as ProcessId, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tokio::runtime::Builder;
use tokio::time::timeout;
use tollgate::app::{self, App};
use tollgate::settings::Settings;
use tracing::dispatcher::set_default;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Metadata, Subscriber};

use crate::support::process::Process;
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

const RULES: &str = "domain: shop\ndescriptors:\n  - key: user\n    rate_limit: 1000/hour\n";
const BODY: &str = r#"{"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "a"}]}]}"#;

/// A thread of another process, stopped until this is dropped. Must be dropped on the thread that created it, since
/// `ptrace` binds them.
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
            // The process has ended. Only the tracer can reap this thread.
            waitpid(self.0, Some(WaitPidFlag::__WALL)).ok();
        }
    }
}

/// Makes a call over a new connection; true if it passed.
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
    eventually("the core is reported", async || {
        let output = service.process.output();
        output.contains("tollgate-core-0") && output.contains("no heartbeat for 10 seconds")
    })
    .await;
    drop(stopped);
    assert_eq!(service.process.exit_code(PATIENCE).await, Some(1));
}

fn id(process: &Process) -> ProcessId {
    ProcessId::from_raw(process.id().try_into().expect("a process id")).expect("a process id")
}

/// File descriptor, in the process, of the socket that listens on `port`.
fn listening(process: &Process, port: u16) -> RawFd {
    let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", process.id())).expect("its sockets");
    let local = format!("0100007F:{port:04X}");
    let fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut inodes = fields.filter(|fields| fields[1] == local && fields[3] == "0A").map(|fields| fields[9]);
    let socket = format!("socket:[{}]", inodes.next().expect("it listens"));
    let descriptors = fs::read_dir(format!("/proc/{}/fd", process.id())).expect("its descriptors");
    let mut paths = descriptors.map(|entry| entry.expect("a descriptor").path());
    let is_wanted =
        |path: &std::path::PathBuf| fs::read_link(path).is_ok_and(|to| to.as_os_str() == &*socket);
    let path = paths.find(is_wanted).expect("a descriptor of this socket");
    path.file_name().and_then(|number| number.to_str()?.parse().ok()).expect("a number")
}

/// A socket that stops listening ends its accept loop: the process must not stay half alive.
#[tokio::test]
async fn an_accept_loop_that_ends_ends_the_process_under_its_name() {
    for name in ["gRPC listener", "HTTP listener", "debug listener", "admin listener"] {
        let mut service = Tollgate::start(&[("rules.yaml", RULES)], &[("THREADS", "1")]).await;
        let port = match name {
            "gRPC listener" => service.grpc,
            "HTTP listener" => service.http,
            "debug listener" => service.debug,
            _ => service.admin,
        };
        let process = pidfd_open(id(&service.process), PidfdFlags::empty()).expect("a process of our own");
        let descriptor = listening(&service.process, port);
        let socket = pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty()).expect("its socket");
        TcpStream::from(socket).shutdown(Shutdown::Read).expect("a socket that listens");
        assert_eq!(service.process.exit_code(PATIENCE).await, Some(1), "{name}");
        let output = service.process.output();
        assert!(output.contains("listener failed") && output.contains("Invalid argument"), "{output}");
        assert!(output.contains(&format!("{name} ended unexpectedly")), "{output}");
    }
}

/// A log that panics at its first line about rules.
struct FailingLog;

impl Subscriber for FailingLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tollgate::provider")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        panic!("by request");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Rules are loaded on threads to which the embedding program can give its own log. If that log panics, it ends the
/// loader, and the rules would never change again: the service must end too.
#[test]
fn a_rule_loader_that_fails_ends_the_service_under_its_name() {
    for (index, name) in ["rule loader", "candidate rule loader"].into_iter().enumerate() {
        let dir = tempfile::tempdir().expect("a directory");
        let [rules, candidate] = ["rules.yaml", "candidate.yaml"].map(|file| {
            let path = dir.path().join(file);
            fs::write(&path, RULES).expect("it is written");
            path.display().to_string()
        });
        let mut variables =
            vec![("RULES_PATH", &*rules), ("CANDIDATE_CONFIG", &candidate), ("ADMIN_PORT", "off")];
        for (host, port) in [("HOST", "PORT"), ("GRPC_HOST", "GRPC_PORT"), ("DEBUG_HOST", "DEBUG_PORT")] {
            variables.extend([(host, "127.0.0.1"), (port, "0")]);
        }
        let settings = Settings::from_variables(&variables).expect("valid settings");
        let log = tempfile::NamedTempFile::new().expect("a file");
        let writer = Mutex::new(log.reopen().expect("the same file"));
        let _logging = set_default(&Dispatch::new(tracing_subscriber::fmt().with_writer(writer).finish()));
        let failing = Dispatch::new(FailingLog);
        // A runtime with one thread starts further threads only for blocking work, such as loads.
        let mut builder = Builder::new_current_thread();
        builder.enable_all().on_thread_start(move || std::mem::forget(set_default(&failing)));
        let ended = builder.build().expect("a runtime").block_on(async {
            let service = App::start(settings).await.expect("it starts");
            service.providers()[index].reload();
            timeout(PATIENCE, service.run(app::Shutdown::default())).await.expect("it ends")
        });
        let error = ended.expect_err("a part of it has ended").to_string();
        assert_eq!(error, format!("{name} ended unexpectedly: returned"));
        let log = fs::read_to_string(log.path()).expect("the log");
        assert!(log.contains("rule loader ended") && log.contains("by request"), "{log}");
        assert!(log.contains("supervised task ended") && log.contains(name), "{log}");
    }
}
