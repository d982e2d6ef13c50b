//! The provider of rules from a management server, without the rest of the service.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tollgate::clock::{Clock, SystemClock};
use tollgate::engine::{Entry, Rules};
use tollgate::provider::files::FileProvider;
use tollgate::provider::origin::Origin;
use tollgate::provider::publish::{PublishSettings, Publisher};
use tollgate::provider::xds::{XdsProvider, XdsStatus};
use tollgate::provider::{Handle, Role, Status};
use tollgate::settings::Settings;
use tollgate::tls::Reloader;

use super::PATIENCE;
use super::ads::AdsServer;

/// Both variants of the protocol.
pub(crate) const VARIANTS: [&str; 2] = ["GRPC_XDS_SOTW", "GRPC_XDS_DELTA"];

/// A provider at work. It ends when dropped.
pub(crate) struct Client {
    pub(crate) rules: Arc<ArcSwapOption<Rules>>,
    pub(crate) xds: Arc<XdsStatus>,
    pub(crate) handle: Handle,
    status: watch::Receiver<Status>,
    _running: Vec<AbortOnDropHandle<()>>,
}

impl Client {
    /// A client of `server` that reconnects soon, with further settings by the names of their variables.
    pub(crate) fn start(variant: &str, server: &AdsServer, settings: &[(&str, &str)]) -> Self {
        Self::start_at(variant, &server.address(), settings)
    }

    /// A client of the server at `address`. With `RULES_PATH`, it reads files too.
    pub(crate) fn start_at(variant: &str, address: &str, settings: &[(&str, &str)]) -> Self {
        let mut variables = vec![
            ("CONFIG_TYPE", variant),
            ("CONFIG_GRPC_XDS_SERVER_URL", address),
            ("XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", "20ms"),
        ];
        variables.retain(|(name, _)| settings.iter().all(|(set, _)| set != name));
        variables.extend(settings);
        let settings = Settings::from_variables(&variables).expect("valid settings");
        let rules = Arc::new(ArcSwapOption::empty());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let files = settings.reads_rule_files.then_some(Origin::Files);
        let origins = files.into_iter().chain([Origin::Xds]).collect();
        let publish = PublishSettings { role: Role::Live, compile: settings.rules.compile, origins };
        let publisher = Publisher::new(publish, Arc::clone(&rules), Arc::clone(&clock), Box::new(|_| ()));
        let mut running = Vec::new();
        let wake = Arc::new(Notify::new());
        let handle = Handle::new(publisher.status(), vec![Arc::clone(&wake)]);
        if files.is_some() {
            let provider = FileProvider::load(&settings.rules, publisher.clone(), Arc::default());
            running.push(AbortOnDropHandle::new(tokio::spawn(async { drop(provider.run().await) })));
        }
        let status = publisher.status();
        let xds = settings.xds.expect("a management server");
        let certificates = Reloader::new(|| SystemClock.now());
        let provider = XdsProvider::load(xds, publisher, clock, wake, &certificates).expect("valid files");
        running.push(AbortOnDropHandle::new(tokio::spawn(async { drop(certificates.run().await) })));
        let xds = provider.status();
        running.push(AbortOnDropHandle::new(tokio::spawn(async { drop(provider.run().await) })));
        Self { rules, xds, handle, status, _running: running }
    }

    /// Requests per unit for `key` in `domain`.
    pub(crate) fn limit(&self, domain: &str, key: &str) -> Option<u32> {
        self.limit_of(domain, &[(key, "any")])
    }

    /// Requests per unit for a descriptor.
    pub(crate) fn limit_of(&self, domain: &str, entries: &[(&str, &str)]) -> Option<u32> {
        let rules = self.rules.load();
        let entries: Vec<_> = entries
            .iter()
            .map(|(key, value)| Entry { key: key.as_bytes(), value: value.as_bytes() })
            .collect();
        let found = rules.as_ref()?.domain(domain.as_bytes())?.find(&entries)?;
        found.rule.limits().first().map(|limit| limit.limit.requests_per_unit)
    }

    /// Number of rules in force; `None` before the first ones.
    pub(crate) fn rule_count(&self) -> Option<usize> {
        self.rules.load().as_ref().map(|rules| rules.len())
    }

    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub(crate) fn error(&self) -> Option<String> {
        self.status().error.map(|errors| errors.to_string())
    }

    /// Reason for the end of the last stream.
    pub(crate) fn stream_error(&self) -> Option<String> {
        self.xds.json()["error"].as_str().map(str::to_owned)
    }

    /// Waits until `promise` holds.
    pub(crate) async fn reaches(&self, what: &str, promise: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !promise(self) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let outcome = timeout(PATIENCE, waiting).await;
        assert!(outcome.is_ok(), "{what}: not within {PATIENCE:?}; {:?} {}", self.status(), self.xds.json());
    }
}

/// Path as a setting.
pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}
