//! `tollgate serve`: puts the parts together, and runs until it is told to stop.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::rules::{self, Live, Tried};
use super::stores::{self, StoreOfCore, Stores};
use super::{Exit, print};
use crate::clock::{Clock, SystemClock};
use crate::engine::Rules;
use crate::limiter::Limiter;
use crate::provider::Handle;
use crate::server::{
    self, Address, Answerer, Answering, ListenSettings, Listeners, LockoutDesk, MakeAnswering, Parts, Stop,
};
use crate::settings::{self, Ignored, RawSettings, Settings, StoreSettings};
use crate::telemetry;
use crate::telemetry::metrics::Metrics;

/// Serves until SIGTERM or SIGINT. SIGHUP reads the rules again.
pub(super) fn run(raw: &RawSettings) -> anyhow::Result<Exit> {
    let settings = Settings::from_raw(raw, settings::environment, Path::exists)?;
    let _traces = telemetry::install(&settings.logs, settings.traces.as_ref())?;
    for Ignored { name, instead } in &settings.ignored {
        tracing::warn!(name, instead, "a setting has no effect");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<Exit> {
    let listeners = Listeners::bind(&settings.listen)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let Live { rules, handle, metrics } = rules::follow(&settings, &clock);
    let tried =
        settings.candidate.as_ref().map(|candidate| rules::follow_candidate(candidate, &clock, &metrics));

    let handles = [&handle].into_iter().chain(tried.as_ref().map(|tried| &tried.handle));
    let stop = stop_on_signals(handles.cloned().collect())?;
    let mut stores = stores::open(&settings, &clock, &metrics).await?;
    announce(&settings, &listeners.addresses()?, &rules, tried.as_ref().map(|tried| &*tried.rules))?;
    let parts = Parts {
        rules: Arc::clone(&rules),
        candidate_rules: tried.as_ref().map(|tried| Arc::clone(&tried.rules)),
        rules_status: handle.status(),
        store_reached: stores.reached.take(),
        metrics: Arc::clone(&metrics),
        lockouts: LockoutDesk {
            lockouts: Arc::clone(&stores.lockouts),
            keys: settings.keys.clone(),
            clock: Arc::clone(&clock),
        },
        make_answering: answerers(&settings, stores, Shared { rules, tried, clock, metrics }),
    };
    server::run(&settings.serve, listeners, parts, stop).await?;
    Ok(Exit::Done)
}

/// What the answerers of all cores have in common.
struct Shared {
    rules: Arc<ArcSwapOption<Rules>>,
    tried: Option<Tried>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

/// What makes the answerer of each core.
fn answerers(settings: &Settings, stores: Stores, shared: Shared) -> Arc<MakeAnswering> {
    let (keys, modes, answers) = (settings.keys.clone(), settings.modes, settings.answers.clone());
    let max_in_flight = settings.max_in_flight;
    Arc::new(move || {
        let StoreOfCore { store, beside, ready, settle } = (stores.make)();
        let Shared { rules, tried, clock, metrics } = &shared;
        let limiter = Limiter {
            rules: Arc::clone(rules),
            store,
            fallback: Arc::clone(&stores.fallback),
            patience: stores.patience,
            clock: Arc::clone(clock),
            metrics: Arc::clone(metrics),
            keys: keys.clone(),
            modes,
            candidate: tried.as_ref().map(|tried| tried.on(beside)),
        };
        Answering { answerer: Answerer::new(limiter, answers.clone(), max_in_flight), ready, settle }
    })
}

/// SIGTERM and SIGINT stop the service, the second one at once; SIGHUP reads all rules again.
fn stop_on_signals(rules: Vec<Handle>) -> anyhow::Result<Stop> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            rules.iter().for_each(Handle::reload);
        }
    });
    let stop = Stop::default();
    let told = stop.clone();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        told.drain.cancel();
        either(&mut terminate, &mut interrupt).await;
        told.now.cancel();
    });
    Ok(stop)
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// Tells whoever started it where it listens, and what to try.
fn announce(
    settings: &Settings,
    listen: &ListenSettings,
    rules: &ArcSwapOption<Rules>,
    tried: Option<&ArcSwapOption<Rules>>,
) -> anyhow::Result<()> {
    let ListenSettings { http, grpc, debug, prometheus } = listen;
    let store = match &settings.store {
        StoreSettings::Memory => "in this process' memory".to_owned(),
        StoreSettings::Redis(redis) => match &redis.per_second {
            None => format!("in Redis at {}", redis.all.deployment),
            Some(second) => {
                format!("in Redis at {}, those per second at {}", redis.all.deployment, second.deployment)
            }
        },
    };
    let rules = loaded(rules, &settings.rules.path);
    let tried = settings.candidate.as_ref().zip(tried);
    let tried = tried.map(|(from, tried)| format!("  candidate {}\n", loaded(tried, &from.files.path)));
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
fn loaded(rules: &ArcSwapOption<Rules>, from: &Path) -> String {
    let from = from.display();
    match &*rules.load() {
        Some(rules) => format!("{} in {} domains, from {from}", rules.len(), rules.domains().count()),
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
