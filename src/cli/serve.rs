//! `tollgate serve`: a process around [`App`].

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Exit, banner, process};
use crate::app::{App, Shutdown};
use crate::provider::Handle;
use crate::settings::{self, Ignored, RawSettings, Settings, Unrecognized};
use crate::telemetry::logs::LogLevel;
use crate::telemetry::{self, Telemetry};

/// Serves until SIGTERM or SIGINT. SIGHUP reads the rules again, SIGUSR1 logs more, SIGUSR2 logs as
/// configured. `program` is what the process was started as, `ignored_arguments` those that mean nothing.
pub(super) fn run(raw: &RawSettings, program: &OsStr, ignored_arguments: &[String]) -> anyhow::Result<Exit> {
    let settings = Settings::from_raw(raw, settings::environment, Path::exists)?;
    let mut telemetry = telemetry::install(&settings.logs, settings.traces.as_ref())?;
    for argument in ignored_arguments {
        tracing::warn!(argument, "unknown argument ignored");
    }
    for Ignored { name, instead } in &settings.ignored {
        tracing::warn!(name, instead, "setting has no effect");
    }
    for Unrecognized { name, nearest } in settings::unrecognized(settings::environment_names()) {
        tracing::warn!(name, nearest, "unknown setting in the environment");
    }
    process::prepare();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(settings, &mut telemetry, program));
    // A blocking read of rules that hangs must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn serve(settings: Settings, telemetry: &mut Telemetry, program: &OsStr) -> anyhow::Result<Exit> {
    // Before the first socket: a program that sees the service listen may send a signal, whose default is
    // to end the process at once.
    let mut signals = Signals::install()?;
    let app = tokio::select! {
        app = App::start(settings) => app?,
        () = signals.stop() => return Ok(Exit::Done),
    };
    app.watch_telemetry(telemetry);
    app.supervise("memory return", process::return_memory());
    banner::show(&app, program);
    let (shutdown, providers) = (Shutdown::default(), app.providers());
    // In one task: no end of the one goes unnoticed by the other.
    tokio::select! {
        outcome = app.run(shutdown.clone()) => outcome?,
        () = signals.handle(&shutdown, &providers, &telemetry.logs.level) => {}
    }
    Ok(Exit::Done)
}

/// Handlers of signals that the process takes. A signal that comes before it is waited for is not lost.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    log_more: Signal,
    log_as_configured: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            log_more: signal(SignalKind::user_defined1())?,
            log_as_configured: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for SIGTERM or SIGINT.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Has SIGTERM and SIGINT drain the service, and the second one end it at once. SIGHUP reads all rules
    /// again, SIGUSR1 raises the log level by one step, SIGUSR2 resets it. Never ends.
    async fn handle(&mut self, shutdown: &Shutdown, providers: &[Handle], level: &LogLevel) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => stop_harder(shutdown),
                _ = self.interrupt.recv() => stop_harder(shutdown),
                _ = self.hangup.recv() => providers.iter().for_each(Handle::reload),
                _ = self.log_more.recv() => level.raise(),
                _ = self.log_as_configured.recv() => level.reset(),
            }
        }
    }
}

fn stop_harder(shutdown: &Shutdown) {
    if shutdown.drain.is_cancelled() {
        shutdown.now.cancel();
    }
    shutdown.drain.cancel();
}
