//! A primary and its replica, watched by three Sentinels.

use secrecy::SecretString;
use tollgate::store::redis::{Credentials, Deployment, Login, RedisSettings};

use super::server::{HOST, Program, Server, Setup};
use super::{User, free_port, settings};
use crate::support::eventually;

/// Name of the primary.
const NAME: &str = "counters";

/// Period of the Sentinels' work, in milliseconds. They connect again no sooner than after a
/// `PING-PERIOD`: were that longer than they wait for an answer, each failover, which cuts their
/// connections, would bring about another. They suffer a server that is not what it should be for four
/// times `PUBLISH-PERIOD`, and know what it is from one `INFO-PERIOD` to the next.
const PERIODS: &[&str] = &["PING-PERIOD", "250", "INFO-PERIOD", "500", "PUBLISH-PERIOD", "250"];

/// Passwords of the default user, if there are any.
#[derive(Clone, Copy, Default)]
pub(crate) struct Passwords {
    pub(crate) servers: Option<&'static str>,
    pub(crate) sentinels: Option<&'static str>,
}

/// The servers and the Sentinels. Dropping this value ends them.
pub(crate) struct Sentinels {
    passwords: Passwords,
    servers: [Server; 2],
    /// Which of the servers was the primary when that was last settled.
    primary: usize,
    sentinels: Vec<Server>,
}

impl Sentinels {
    /// They know each other and both servers when this returns.
    pub(crate) async fn start(passwords: Passwords) -> Self {
        let setup = protected(Program::Redis, passwords.servers)
            .with("repl-diskless-sync-delay 0\nrepl-ping-replica-period 1\n");
        // The primary too, which will be the replica of the other.
        let setup = match passwords.servers {
            Some(password) => setup.with(&format!("masterauth \"{password}\"\n")),
            None => setup,
        };
        let primary = Server::start(free_port, &setup).await;
        let port = primary.port();
        let replica = Server::start(free_port, &setup.with(&format!("replicaof {HOST} {port}\n"))).await;
        let mut all = Self { passwords, servers: [primary, replica], primary: 0, sentinels: Vec::new() };
        // A Sentinel asks the primary for its replicas at once, and then not for long.
        eventually("the replica follows", async || all.replica_follows()).await;
        let setup = sentinel(port, passwords);
        for _ in 0..3 {
            let sentinel = Server::start(free_port, &setup).await;
            sentinel.run_ok(["SENTINEL", "DEBUG"].iter().chain(PERIODS));
            all.sentinels.push(sentinel);
        }
        all.settled().await;
        all
    }

    /// Waits until the Sentinels that run agree that a primary has its replica, and could replace it.
    pub(crate) async fn settled(&self) {
        eventually("the Sentinels agree", async || {
            let knows_all = |sentinel: &Server| {
                let known = sentinel.command(["SENTINEL", "MASTER", NAME]);
                let field = |name, value| is_field(&known, name, value);
                let replicas = sentinel.command(["SENTINEL", "REPLICAS", NAME]);
                let usable = is_field(&replicas, "flags", "slave")
                    && is_field(&replicas, "master-link-status", "ok")
                    && is_field(&replicas, "master-port", &self.servers[self.primary].port().to_string());
                field("flags", "master")
                    && field("num-slaves", "1")
                    && field("num-other-sentinels", "2")
                    && usable
            };
            self.replica_follows() && self.sentinels.iter().filter(|s| s.is_running()).all(knows_all)
        })
        .await;
    }

    /// Settings to connect to them.
    pub(crate) fn settings(&self) -> RedisSettings {
        let sentinels = self.sentinels.iter().map(|sentinel| sentinel.endpoint().clone()).collect();
        let login = |password: Option<&str>| {
            password.map_or(Login::Open, |password| Login::Password {
                username: None,
                password: SecretString::from(password),
            })
        };
        let credentials =
            Credentials { server: login(self.passwords.servers), sentinel: login(self.passwords.sentinels) };
        settings(Deployment::Sentinel { primary: NAME.to_owned(), sentinels }, credentials)
    }

    /// The port of the primary, as a Sentinel says.
    pub(crate) fn primary_port(&self) -> u16 {
        let sentinel = self.sentinels.iter().find(|sentinel| sentinel.is_running()).expect("a Sentinel");
        named_by(sentinel)
    }

    /// Waits until every Sentinel that runs names the other server as the primary, and that is one.
    pub(crate) async fn wait_for_failover(&mut self) {
        let next = 1 - self.primary;
        let port = self.servers[next].port();
        eventually("the replica is named the primary", async || {
            self.sentinels.iter().filter(|s| s.is_running()).all(|s| named_by(s) == port)
                && self.servers[next].command(["ROLE"]).starts_with("master")
        })
        .await;
        self.primary = next;
    }

    /// Ends the primary at once, as a crash does.
    pub(crate) fn kill_primary(&mut self) {
        self.servers[self.primary].kill();
    }

    /// Lets the primary hang: connections stay, answers do not come.
    pub(crate) fn pause_primary(&self) {
        self.servers[self.primary].pause();
    }

    /// Lets the one that hangs go on, primary or not.
    pub(crate) fn resume(&self) {
        self.servers.iter().for_each(Server::resume);
    }

    /// Starts the server again that was the primary before the failover. It believes that it still is,
    /// until a Sentinel says otherwise.
    pub(crate) async fn restart_old_primary(&mut self) {
        self.servers[1 - self.primary].restart().await;
    }

    /// Ends one of the Sentinels, by its number from 0.
    pub(crate) fn kill_sentinel(&mut self, sentinel: usize) {
        self.sentinels[sentinel].kill();
    }

    /// Number of keys of the primary.
    pub(crate) fn len(&self) -> usize {
        self.command_on_primary(["DBSIZE"]).parse().expect("a number")
    }

    /// Runs one command on the primary in `redis-cli` and returns what that prints.
    pub(crate) fn command_on_primary<A: AsRef<[u8]>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> String {
        self.servers[self.primary].command(arguments)
    }

    /// Waits until the replica has all that the primary has.
    pub(crate) async fn replicated(&self) {
        eventually("the replica has it", async || self.servers[self.primary].has_reached(1)).await;
    }

    fn replica_follows(&self) -> bool {
        let [primary, replica] = [&self.servers[self.primary], &self.servers[1 - self.primary]];
        let info = replica.command(["INFO", "replication"]);
        info.contains("master_link_status:up")
            && info.contains(&format!("master_port:{}\r", primary.port()))
            && primary.has_reached(1)
    }
}

/// A server or Sentinel with a password, if one is given.
fn protected(program: Program, password: Option<&'static str>) -> Setup {
    let setup = Setup::new(program);
    let Some(password) = password else { return setup };
    let user = Some(User { name: "default", password });
    Setup { user, ..setup.with(&format!("requirepass \"{password}\"\n")) }
}

fn sentinel(primary_port: u16, passwords: Passwords) -> Setup {
    let setup = protected(Program::Sentinel, passwords.sentinels).with(&format!(
        "sentinel monitor {NAME} {HOST} {primary_port} 2\n\
         sentinel down-after-milliseconds {NAME} 500\n\
         sentinel failover-timeout {NAME} 3000\n\
         sentinel parallel-syncs {NAME} 1\n"
    ));
    let setup = match passwords.servers {
        Some(password) => setup.with(&format!("sentinel auth-pass {NAME} \"{password}\"\n")),
        None => setup,
    };
    match passwords.sentinels {
        // To speak to each other.
        Some(password) => setup.with(&format!("sentinel sentinel-pass \"{password}\"\n")),
        None => setup,
    }
}

/// The port of the primary that a Sentinel names.
fn named_by(sentinel: &Server) -> u16 {
    let address = sentinel.command(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
    let port = address.lines().nth(1).unwrap_or_else(|| panic!("no address: {address}"));
    port.parse().expect("a port")
}

/// True if `redis-cli` has printed this pair of a name and a value, each on its line.
fn is_field(printed: &str, name: &str, value: &str) -> bool {
    let lines: Vec<_> = printed.lines().collect();
    lines.chunks_exact(2).any(|pair| pair == [name, value])
}
