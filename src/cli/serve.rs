//! `tollgate serve`: a process around [`App`].

use std::ffi::OsStr;
use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Exit, banner, process};
use crate::app::{App, Shutdown};
use crate::provider::Handle;
use crate::settings::{self, Ignored, RawSettings, Settings, Unrecognized};
use crate::telemetry::logs::LogLevel;
use crate::telemetry::{self, Telemetry};

/// Serves until SIGTERM or SIGINT. SIGHUP reads the rules again, SIGUSR1 logs more, SIGUSR2 logs as
/// configured. `program` is what the process was started as.
pub(super) fn run(raw: &RawSettings, program: &OsStr) -> anyhow::Result<Exit> {
    let settings = Settings::from_raw(raw, settings::environment, Path::exists)?;
    let mut telemetry = telemetry::install(&settings.logs, settings.traces.as_ref())?;
    for Ignored { name, instead } in &settings.ignored {
        tracing::warn!(name, instead, "setting has no effect");
    }
    for Unrecognized { name, nearest } in settings::unrecognized(settings::environment_names()) {
        tracing::warn!(name, nearest, "unknown setting in the environment");
    }
    process::prepare();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.spawn(process::return_memory());
    let outcome = runtime.block_on(serve(settings, &mut telemetry, program));
    // A blocking read of rules that hangs must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn serve(settings: Settings, telemetry: &mut Telemetry, program: &OsStr) -> anyhow::Result<Exit> {
    // Before the first socket: a program that sees the service listen may send a signal, whose default is
    // to end the process at once.
    let signals = Signals::install()?;
    let shutdown = Shutdown::default();
    let reload = signals.serve(shutdown.clone(), telemetry.logs.level.clone());
    let app = tokio::select! {
        app = App::start(settings) => app?,
        () = shutdown.drain.cancelled() => return Ok(Exit::Done),
    };
    reload.serve(app.providers());
    app.watch_log(&mut telemetry.logs.writer);
    banner::show(&app, program);
    app.run(shutdown).await?;
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

/// The handler of SIGHUP.
struct Reload(Signal);

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            log_more: signal(SignalKind::user_defined1())?,
            log_as_configured: signal(SignalKind::user_defined2())?,
        })
    }

    /// Has SIGTERM and SIGINT drain the service, and the second one end it at once. SIGUSR1 raises the log
    /// level by one step, SIGUSR2 resets it.
    fn serve(self, shutdown: Shutdown, level: LogLevel) -> Reload {
        let Self { mut terminate, mut interrupt, hangup, mut log_more, mut log_as_configured } = self;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(()) = log_more.recv() => level.raise(),
                    Some(()) = log_as_configured.recv() => level.reset(),
                    else => return,
                }
            }
        });
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            shutdown.drain.cancel();
            either(&mut terminate, &mut interrupt).await;
            shutdown.now.cancel();
        });
        Reload(hangup)
    }
}

impl Reload {
    /// Has SIGHUP read all rules again.
    fn serve(self, providers: Vec<Handle>) {
        let Self(mut hangup) = self;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                providers.iter().for_each(Handle::reload);
            }
        });
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
