//! The service inside the process of the test, for tests that need no signal, exit code or log.

use std::thread::{self, JoinHandle};

use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tollgate::app::{App, Shutdown};
use tollgate::server::Address;
use tollgate::settings::Settings;

use super::eventually;
use super::tollgate::write_rule_file;

/// A running service with rules and settings of its own. It ends when dropped.
pub(crate) struct Service {
    /// Port for HTTP.
    pub(crate) http: u16,
    /// Port for gRPC.
    pub(crate) grpc: u16,
    /// Port for debugging.
    pub(crate) debug: u16,
    /// Port of the console and its API.
    pub(crate) admin: u16,
    shutdown: Shutdown,
    thread: Option<JoinHandle<()>>,
    /// The rules, in `rules/`.
    dir: TempDir,
}

impl Service {
    /// A service with these rule files and these settings, by the names of their variables; it is healthy
    /// when this returns.
    pub(crate) async fn start(rules: &[(&str, &str)], settings: &[(&str, &str)]) -> Self {
        let service = Self::launch(rules, settings).await;
        let health = service.url("/healthcheck");
        eventually("the service is healthy", async || {
            reqwest::get(&health).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        service
    }

    async fn launch(rules: &[(&str, &str)], settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in rules {
            write_rule_file(dir.path(), name, text);
        }
        let path = dir.path().join("rules").display().to_string();
        let mut variables = vec![("RULES_PATH", path.as_str())];
        let listeners = [
            ("HOST", "PORT"),
            ("GRPC_HOST", "GRPC_PORT"),
            ("DEBUG_HOST", "DEBUG_PORT"),
            ("ADMIN_HOST", "ADMIN_PORT"),
        ];
        for (host, port) in listeners {
            variables.extend([(host, "127.0.0.1"), (port, "0")]);
        }
        variables.retain(|(name, _)| settings.iter().all(|(set, _)| set != name));
        variables.extend(settings);
        let settings = Settings::from_variables(&variables).expect("settings of use");
        let shutdown = Shutdown::default();
        let (started, addresses) = oneshot::channel();
        let stop = shutdown.clone();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let app = App::start(settings).await.expect("it starts");
                started.send(app.addresses().clone()).expect("the test waits for it");
                app.run(stop).await.expect("it serves until it is asked to stop");
            });
        });
        let addresses = addresses.await.expect("it starts");
        let port = |address: &Address| match address {
            Address::Tcp { port, .. } => *port,
            Address::Unix(_) => 0,
        };
        let (http, grpc, debug) = (port(&addresses.http), port(&addresses.grpc), port(&addresses.debug));
        let admin = addresses.admin.as_ref().map_or(0, port);
        Self { http, grpc, debug, admin, shutdown, thread: Some(thread), dir }
    }

    /// Replaces a rule file in one step.
    pub(crate) fn write_rules(&self, name: &str, text: &str) {
        write_rule_file(self.dir.path(), name, text);
    }

    /// A URL of the HTTP port.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http)
    }

    /// A URL of the admin port.
    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin)
    }

    /// A URL of the debug port.
    pub(crate) fn debug_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.debug)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shutdown.now.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        // A test that has failed already says why by itself.
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()), "the service panicked");
    }
}
