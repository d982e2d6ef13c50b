//! State of the connection to the management server, for health, metrics and operators.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::protocol::Variant;
use crate::engine::Timestamp;

/// Characters of an error that status shows.
const ERROR_CHARS_MAX: usize = 1_000;

/// State of the connection to the management server.
#[derive(Debug)]
pub struct XdsStatus {
    server: String,
    variant: Mutex<&'static str>,
    connected: AtomicBool,
    acks: AtomicU64,
    nacks: AtomicU64,
    reconnects: AtomicU64,
    stream_errors: AtomicU64,
    /// Seconds since 1970; 0 for never.
    last_response_at: AtomicU64,
    /// True until the first response, if rules of an earlier run are in force.
    is_from_cache: AtomicBool,
    text: Mutex<Text>,
}

#[derive(Clone, Debug, Default)]
struct Text {
    /// Version of the last response.
    version: String,
    /// Reason for refusing the last response; `None` if it was accepted.
    refused: Option<String>,
    /// Reason for the end of the last stream; `None` while one is open.
    error: Option<String>,
}

impl XdsStatus {
    pub(super) fn new(server: String, variant: Variant) -> Self {
        Self {
            server,
            variant: Mutex::new(variant.name()),
            connected: AtomicBool::new(false),
            acks: AtomicU64::new(0),
            nacks: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            stream_errors: AtomicU64::new(0),
            last_response_at: AtomicU64::new(0),
            is_from_cache: AtomicBool::new(false),
            text: Mutex::default(),
        }
    }

    /// Address of the server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// True while a stream is open.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Number of responses that were accepted.
    pub fn acks(&self) -> u64 {
        self.acks.load(Ordering::Relaxed)
    }

    /// Number of responses that were refused, in whole or in part.
    pub fn nacks(&self) -> u64 {
        self.nacks.load(Ordering::Relaxed)
    }

    /// Number of streams after the first one.
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// Number of attempts to connect that failed, and of streams that ended in an error.
    pub fn stream_errors(&self) -> u64 {
        self.stream_errors.load(Ordering::Relaxed)
    }

    /// Time of the last response, in seconds since 1970; 0 before the first.
    pub fn last_response_at_secs(&self) -> u64 {
        self.last_response_at.load(Ordering::Relaxed)
    }

    /// All of it, for operators.
    pub fn json(&self) -> Value {
        let Text { version, refused, error } = self.text.lock().clone();
        let last_response_at = self.last_response_at_secs();
        json!({
            "server": self.server,
            "protocol": *self.variant.lock(),
            "connected": self.is_connected(),
            "version": version,
            "last_response_at": (last_response_at > 0).then_some(last_response_at),
            "from_cache": self.is_from_cache.load(Ordering::Relaxed),
            "acks": self.acks(),
            "nacks": self.nacks(),
            "reconnects": self.reconnects(),
            "rejected": refused,
            "error": error,
        })
    }

    pub(super) fn set_from_cache(&self) {
        self.is_from_cache.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_variant(&self, variant: Variant) {
        *self.variant.lock() = variant.name();
    }

    pub(super) fn set_connected(&self, is_reconnect: bool) {
        self.connected.store(true, Ordering::Relaxed);
        self.reconnects.fetch_add(u64::from(is_reconnect), Ordering::Relaxed);
        self.text.lock().error = None;
    }

    pub(super) fn set_disconnected(&self, error: &str) {
        self.connected.store(false, Ordering::Relaxed);
        self.stream_errors.fetch_add(1, Ordering::Relaxed);
        self.text.lock().error = Some(error.chars().take(ERROR_CHARS_MAX).collect());
    }

    pub(super) fn record_response(&self, version: &str, now: Timestamp) {
        self.last_response_at.store(now.as_secs(), Ordering::Relaxed);
        self.is_from_cache.store(false, Ordering::Relaxed);
        self.text.lock().version = version.chars().take(ERROR_CHARS_MAX).collect();
    }

    pub(super) fn record_ack(&self) {
        self.acks.fetch_add(1, Ordering::Relaxed);
        self.text.lock().refused = None;
    }

    /// Sets the reason for refusing the last response, which rule files may have changed since.
    pub(super) fn set_refused(&self, reason: Option<String>) {
        self.text.lock().refused = reason.map(|reason| reason.chars().take(ERROR_CHARS_MAX).collect());
    }

    /// Counts each refused response, also those whose answer is delayed or left out.
    pub(super) fn record_nack(&self, reason: &str) {
        self.nacks.fetch_add(1, Ordering::Relaxed);
        self.text.lock().refused = Some(reason.chars().take(ERROR_CHARS_MAX).collect());
    }
}
