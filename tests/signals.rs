//! Signals that arrive early: as soon as the service listens, and before it has read its rules.

use std::fmt::Write as _;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::support::process::{Output, POLL};
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

/// Rules that take a while to compile.
fn many_rules() -> String {
    let mut rules = "domain: shop\ndescriptors:\n".to_owned();
    for index in 0..10_000 {
        writeln!(rules, "  - {{key: user, value: u{index}, rate_limit: 5/minute}}").expect("to memory");
    }
    rules
}

/// A service whose port has just begun to accept connections, and which has not served any.
async fn just_listening(rules: &str) -> Tollgate {
    let mut service = Tollgate::launch("", &[("rules.yaml", rules)], &[], Output::default());
    let deadline = Instant::now() + PATIENCE;
    // No pause: the time between the first socket and the last rule is what is tested.
    while TcpStream::connect(("127.0.0.1", service.grpc)).await.is_err() {
        assert!(!service.process.has_ended() && Instant::now() < deadline, "it does not listen");
        tokio::task::yield_now().await;
    }
    service
}

#[tokio::test]
async fn a_signal_before_the_rules_are_read_is_handled_like_a_later_one() {
    let rules = many_rules();
    for signal in ["HUP", "USR1", "USR2"] {
        let mut service = just_listening(&rules).await;
        service.process.signal(signal);
        let deadline = Instant::now() + PATIENCE;
        while !reqwest::get(service.url("/healthcheck")).await.is_ok_and(|answer| answer.status() == 200) {
            assert!(!service.process.has_ended(), "SIG{signal} ended it: {}", service.process.output());
            assert!(Instant::now() < deadline, "SIG{signal}: {}", service.process.output());
            sleep(POLL).await;
        }
        // It was kept, not ignored. The rules are the same, so that SIGHUP has nothing to log.
        let logged = async || service.process.output().contains("log level changed");
        if signal != "HUP" {
            eventually("the level changes", logged).await;
        }
    }
    for signal in ["TERM", "INT"] {
        let mut service = just_listening(&rules).await;
        service.process.signal(signal);
        assert_eq!(service.process.exit_code(PATIENCE).await, Some(0), "SIG{signal}");
    }
}
