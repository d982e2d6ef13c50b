//! The servers that tests of the Redis store rely on are what they claim to be.

use std::path::Path;
use std::process::Command;

use tollgate::store::redis::{ClientCertificate, Deployment, Endpoint};

use crate::support::redis::{Redis, User};

const USER: User = User { name: "tollgate", password: "correct horse" };

#[tokio::test]
async fn valkey_says_that_it_is_valkey() {
    let server = Redis::start_valkey().await;
    let info = server.command(["INFO", "server"]);
    assert!(info.contains("server_name:valkey"), "{info}");
    let server = Redis::start().await;
    let info = server.command(["INFO", "server"]);
    assert!(!info.contains("valkey"), "{info}");
}

#[tokio::test]
async fn tls_refuses_a_client_without_certificate() {
    let server = Redis::start_with_tls(USER).await;
    assert_eq!(server.command(["ACL", "WHOAMI"]), USER.name);
    let tls = server.settings().tls.expect("TLS");
    assert!(tls.verify_hostname);
    let ca = tls.ca.expect("an authority");
    let client = tls.client.expect("a certificate");

    assert_eq!(ping(&server, &ca, Some(&client)), "PONG");
    assert_eq!(ping(&server, &ca, None), "");
    assert_eq!(ping(&server, &server.certificates().other_ca(), Some(&client)), "");
    let Deployment::Single(Endpoint::Tcp { host, .. }) = server.settings().deployment else {
        panic!("one server")
    };
    assert_eq!(host, "localhost");
    assert_ne!(server.reached_by("127.0.0.1"), server.settings().deployment);
}

/// What a client that trusts `ca` hears.
fn ping(server: &Redis, ca: &Path, client: Option<&ClientCertificate>) -> String {
    let Deployment::Single(Endpoint::Tcp { port, .. }) = server.settings().deployment else {
        panic!("one server")
    };
    let mut cli = Command::new("redis-cli");
    cli.args(["-h", "127.0.0.1", "-p", &port.to_string(), "--user", USER.name, "--pass", USER.password]);
    cli.arg("--tls").arg("--cacert").arg(ca);
    if let Some(client) = client {
        cli.arg("--cert").arg(&client.certificate).arg("--key").arg(&client.key);
    }
    let output = cli.arg("PING").output().expect("redis-cli");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}
