//! `tollgate serve`: a process around [`App`].

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Exit, counted, print, process};
use crate::app::{App, Shutdown};
use crate::engine::Rules;
use crate::provider::Handle;
use crate::server::{Address, ListenSettings};
use crate::settings::{self, Ignored, RawSettings, Settings, StoreSettings};
use crate::telemetry;

/// Serves until SIGTERM or SIGINT. SIGHUP reads the rules again.
pub(super) fn run(raw: &RawSettings) -> anyhow::Result<Exit> {
    let settings = Settings::from_raw(raw, settings::environment, Path::exists)?;
    let _traces = telemetry::install(&settings.logs, settings.traces.as_ref())?;
    for Ignored { name, instead } in &settings.ignored {
        tracing::warn!(name, instead, "a setting has no effect");
    }
    process::prepare();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.spawn(process::return_memory());
    let outcome = runtime.block_on(serve(settings));
    // A blocking read of rules that hangs must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn serve(settings: Settings) -> anyhow::Result<Exit> {
    // Before the first socket: whoever sees the service listen may send a signal, whose default is to end
    // the process at once.
    let signals = Signals::install()?;
    let shutdown = Shutdown::default();
    let reload = signals.serve(shutdown.clone());
    let app = tokio::select! {
        app = App::start(settings) => app?,
        () = shutdown.drain.cancelled() => return Ok(Exit::Done),
    };
    reload.serve(app.providers());
    announce(&app)?;
    app.run(shutdown).await?;
    Ok(Exit::Done)
}

/// Handlers of signals that the process takes. A signal that comes before it is waited for is not lost.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// The handler of SIGHUP.
struct Reload(Signal);

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Has SIGTERM and SIGINT drain the service, and the second one end it at once.
    fn serve(self, shutdown: Shutdown) -> Reload {
        let Self { mut terminate, mut interrupt, hangup } = self;
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

/// Tells whoever started it where it listens, and what to try.
fn announce(app: &App) -> anyhow::Result<()> {
    let settings = app.settings();
    let ListenSettings { http, grpc, debug, prometheus } = app.addresses();
    let store = match &settings.store {
        StoreSettings::Memory => "in this process' memory".to_owned(),
        StoreSettings::Redis(redis) => match &redis.per_second {
            None => format!("in Redis at {}", redis.all.deployment),
            Some(second) => {
                format!("in Redis at {}, those per second at {}", redis.all.deployment, second.deployment)
            }
        },
    };
    let rules = loaded(app.rules().as_deref(), &settings.rules.path);
    let tried = settings.candidate.as_ref().map(|candidate| {
        format!("  candidate {}\n", loaded(app.candidate_rules().as_deref(), &candidate.files.path))
    });
    let prometheus = prometheus.as_ref().map(|(address, path)| format!("  metrics   {address}{path}\n"));
    let (grpc_here, http_here) = (reachable(grpc), reachable(http));
    print(&format!(
        "tollgate {version}\n  gRPC      {grpc}\n  HTTP      {http}\n  debug     {debug}\n{prometheus}  \
         rules     {rules}\n{tried}  counters  {store}\n\nTry:\n  tollgate query{address} -d example user=alice\n  curl \
         http://{http_here}/json -d '{BODY}'\n",
        version = env!("CARGO_PKG_VERSION"),
        prometheus = prometheus.unwrap_or_default(),
        tried = tried.unwrap_or_default(),
        address =
            if grpc_here == "127.0.0.1:8081" { String::new() } else { format!(" --address {grpc_here}") },
    ))?;
    Ok(())
}

/// How many rules there are, and where they come from.
fn loaded(rules: Option<&Rules>, from: &Path) -> String {
    let from = from.display();
    match rules {
        Some(rules) => {
            format!("{} in {}, from {from}", rules.len(), counted(rules.domains().count(), "domain"))
        }
        None => format!("none yet, from {from}"),
    }
}

const BODY: &str =
    r#"{"domain": "example", "descriptors": [{"entries": [{"key": "user", "value": "alice"}]}]}"#;

/// The address as somebody on this machine reaches it.
fn reachable(address: &Address) -> String {
    match address {
        Address::Tcp { host, port } if host == "0.0.0.0" || host == "::" => format!("127.0.0.1:{port}"),
        address => address.to_string(),
    }
}
