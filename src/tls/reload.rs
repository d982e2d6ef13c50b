//! Reloads files of certificates and keys while the service runs.
//!
//! The kernel reports changes; polling finds those that it does not report, as on network file systems. The content
//! decides: how a file was replaced makes no difference.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
use tokio::time::{sleep, timeout};

use super::client::{ClientMaterial, ClientTls, LiveClient};
use super::files::{TlsError, Utc};
use super::material::{Files, Material};
use super::server::{LiveServer, ServerTls};
use crate::engine::Timestamp;
use crate::file_watch::{Watches, name_path_of};

/// Interval of polling.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Time without a change after which files are read: a certificate and its key are replaced one after the other.
const QUIET: Duration = Duration::from_millis(100);
/// Longest time that a reload waits for changes to pause.
const UNQUIET_MAX: Duration = Duration::from_secs(1);
/// Time before its expiry at which a certificate is reported.
const EXPIRY_NOTICE: Duration = Duration::from_secs(7 * 86_400);

/// State of the files of one client or listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsStatus {
    /// Use of the files: `grpc`, `http`, `redis`, `xds`, `otlp_metrics`, `otlp_traces`.
    pub user: &'static str,
    /// Number of times that changed files came into force.
    pub reloads: u64,
    /// Number of times that changed files were invalid.
    pub failures: u64,
    /// False while the files are invalid and those before them are in force.
    pub last_reload_successful: bool,
    /// True for a listener, false for a client.
    pub is_listener: bool,
    /// Number of handshakes of clients of the listener that failed.
    pub handshake_failures: u64,
    /// Files of certificates that are in force.
    pub certificates: Vec<CertificateStatus>,
}

/// State of a file of certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateStatus {
    /// Path of the file.
    pub path: PathBuf,
    /// Time at which the first certificate of a chain expires, or the last of several authorities.
    pub not_after: Timestamp,
}

/// Reloads the files of every client and listener that is registered with it.
pub struct Reloader {
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    wake: Arc<Notify>,
    /// Locked while files are read, which can take long.
    registered: Mutex<Registered>,
    /// Locked for moments only, so that a file system that hangs delays no scrape.
    statuses: Mutex<Vec<Arc<Shown>>>,
}

struct Registered {
    watches: Watches,
    entries: Vec<Entry>,
}

/// The files of one client or listener.
struct Entry {
    files: Files,
    /// Digest of the contents in force.
    digest: u64,
    /// Puts what the files mean into force.
    apply: Box<dyn Fn(Material) -> Result<(), TlsError> + Send>,
    shown: Arc<Shown>,
    /// Error of the last read.
    error: Option<String>,
    /// Files whose coming expiry was logged, and whether they had expired.
    noticed: Vec<(PathBuf, bool)>,
}

/// State of an entry, for metrics.
struct Shown {
    status: Mutex<TlsStatus>,
    /// `None` for a client.
    handshake_failures: Option<Arc<AtomicU64>>,
}

impl Shown {
    fn status(&self) -> TlsStatus {
        let failures = self.handshake_failures.as_ref();
        let handshake_failures = failures.map_or(0, |failures| failures.load(Ordering::Relaxed));
        TlsStatus { handshake_failures, ..self.status.lock().clone() }
    }
}

impl Reloader {
    /// A reloader without files. `now` returns the time.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Arc<Self> {
        let wake = Arc::new(Notify::new());
        let watches = Watches::new("certificates", Arc::clone(&wake));
        let registered = Mutex::new(Registered { watches, entries: Vec::new() });
        Arc::new(Self { now: Box::new(now), wake, registered, statuses: Mutex::default() })
    }

    /// TLS of a client, which `user` names in logs and metrics: `xds`. `alpn` lists the protocols that it speaks.
    /// Reads the files, blocking the thread while the disk answers.
    ///
    /// # Errors
    /// [`TlsError`] with the first file that cannot be used, and why.
    pub fn client(
        &self,
        user: &'static str,
        settings: &ClientTls,
        alpn: &[&[u8]],
    ) -> Result<LiveClient, TlsError> {
        let make = |material| Ok(Arc::new(ClientMaterial::new(material)?));
        let material = self.register(user, settings.files(), None, make)?;
        LiveClient::new(settings, alpn, material)
    }

    /// TLS of a listener, in the same way.
    ///
    /// # Errors
    /// [`TlsError`] with the first file that cannot be used, and why.
    pub fn server(
        &self,
        user: &'static str,
        settings: &ServerTls,
        alpn: &'static [&'static [u8]],
    ) -> Result<LiveServer, TlsError> {
        let (files, settings) = (settings.files(), settings.clone());
        let ca = files.ca.clone();
        let failures = Arc::default();
        let make = move |material| settings.config(material, alpn);
        let config = self.register(user, files, Some(Arc::clone(&failures)), make)?;
        Ok(LiveServer::new(user, config, ca, failures))
    }

    fn register<T: Send + Sync + 'static>(
        &self,
        user: &'static str,
        files: Files,
        handshake_failures: Option<Arc<AtomicU64>>,
        make: impl Fn(Material) -> Result<Arc<T>, TlsError> + Send + 'static,
    ) -> Result<watch::Receiver<Arc<T>>, TlsError> {
        let now = (self.now)();
        let contents = files.read()?;
        let material = files.parse(&contents, Some(now))?;
        let certificates = statuses(&material);
        let (sender, receiver) = watch::channel(make(material)?);
        let status = TlsStatus {
            user,
            reloads: 0,
            failures: 0,
            last_reload_successful: true,
            is_listener: handshake_failures.is_some(),
            handshake_failures: 0,
            certificates,
        };
        let shown = Arc::new(Shown { status: Mutex::new(status), handshake_failures });
        let entry = Entry {
            files,
            digest: contents.digest(),
            apply: Box::new(move |material| {
                sender.send_replace(make(material)?);
                Ok(())
            }),
            shown: Arc::clone(&shown),
            error: None,
            noticed: Vec::new(),
        };
        self.statuses.lock().push(shown);
        let mut registered = self.registered.lock();
        registered.entries.push(entry);
        // Also what changed before the watch began.
        registered.reload(now);
        Ok(receiver)
    }

    /// True if no client or listener uses TLS.
    pub fn is_empty(&self) -> bool {
        self.statuses.lock().is_empty()
    }

    /// State of the files of every client and listener.
    pub fn statuses(&self) -> Vec<TlsStatus> {
        self.statuses.lock().iter().map(|shown| shown.status()).collect()
    }

    /// Reloads files whenever they change. Must run inside a runtime with time enabled.
    ///
    /// # Errors
    /// Never returns unless a reload panics.
    pub async fn run(self: Arc<Self>) -> Result<Infallible, JoinError> {
        loop {
            tokio::select! {
                () = self.wake.notified() => settle(&self.wake).await,
                () = sleep(POLL_INTERVAL) => (),
            }
            let reloader = Arc::clone(&self);
            tokio::task::spawn_blocking(move || reloader.reload()).await?;
        }
    }

    /// Reads every file and puts those that changed into force, blocking the thread while the disk answers.
    pub(super) fn reload(&self) {
        self.registered.lock().reload((self.now)());
    }
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").field("statuses", &self.statuses()).finish_non_exhaustive()
    }
}

impl Registered {
    fn reload(&mut self, now: Timestamp) {
        let Self { watches, entries } = self;
        watches.during(|name| {
            for entry in entries {
                entry.files.paths().for_each(|path| name_path_of(path, &mut *name));
                entry.reload(now);
                entry.notice_expiry(now);
            }
        });
    }
}

impl Entry {
    fn reload(&mut self, now: Timestamp) {
        let loaded = self.load(now);
        let mut status = self.shown.status.lock();
        let user = status.user;
        match loaded {
            Ok(Some(certificates)) => {
                status.certificates = certificates;
                status.reloads += 1;
                tracing::info!(user, "certificates reloaded");
                self.error = None;
            }
            Ok(None) => {
                if self.error.take().is_some() {
                    tracing::info!(user, "certificate files are those in force again");
                }
            }
            Err(error) => {
                let error = error.to_string();
                if self.error.as_ref() != Some(&error) {
                    status.failures += 1;
                    tracing::error!(user, %error, "certificate reload failed, keeping the last good files");
                    self.error = Some(error);
                }
            }
        }
        status.last_reload_successful = self.error.is_none();
    }

    /// Reads the files. Returns their certificates if other contents came into force.
    fn load(&mut self, now: Timestamp) -> Result<Option<Vec<CertificateStatus>>, TlsError> {
        let contents = self.files.read()?;
        let digest = contents.digest();
        if digest == self.digest {
            return Ok(None);
        }
        let material = self.files.parse(&contents, Some(now))?;
        let certificates = statuses(&material);
        (self.apply)(material)?;
        self.digest = digest;
        self.noticed.clear();
        Ok(Some(certificates))
    }

    /// Logs certificates that expire soon, and once more when they have.
    fn notice_expiry(&mut self, now: Timestamp) {
        let TlsStatus { user, certificates, .. } = self.shown.status();
        for CertificateStatus { path, not_after } in certificates {
            let has_expired = now > not_after;
            let notice = (path, has_expired);
            if now.after(EXPIRY_NOTICE) < not_after || self.noticed.contains(&notice) {
                continue;
            }
            let (path, not_after) = (notice.0.display(), Utc(not_after));
            if has_expired {
                tracing::error!(user, %path, %not_after, "certificate expired");
            } else {
                tracing::warn!(user, %path, %not_after, "certificate expires soon");
            }
            self.noticed.push(notice);
        }
    }
}

fn statuses(material: &Material) -> Vec<CertificateStatus> {
    let status =
        |(path, not_after): &(PathBuf, _)| CertificateStatus { path: path.clone(), not_after: *not_after };
    material.expiries.iter().map(status).collect()
}

/// Waits until changes pause.
async fn settle(wake: &Notify) {
    let quiet = async { while timeout(QUIET, wake.notified()).await.is_ok() {} };
    // Either way it is time to read.
    timeout(UNQUIET_MAX, quiet).await.ok();
}
