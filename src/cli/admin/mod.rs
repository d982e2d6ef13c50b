//! `tollgate admin`: the actions of the admin API, for terminals and scripts.

mod state_text;
mod text;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::admin_client::{AdminClient, AdminFlags, encoded};
use super::query::{Descriptor, parse_descriptor};
use super::{Exit, print};
use crate::lab::Explanation;

/// Path of the lockouts, a list of several pages.
const LOCKOUTS: &str = "/lockouts?limit=10000";

/// Arguments of `admin`.
#[derive(Args, Debug)]
pub(super) struct AdminCommandArgs {
    #[command(flatten)]
    admin: AdminFlags,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Set, list or delete overrides of single descriptors.
    #[command(subcommand)]
    Overrides(Overrides),
    /// Remove the counters of every limit that applies to a descriptor.
    Reset {
        #[command(flatten)]
        key: KeyArgs,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Show every limit that applies to a descriptor, and how much of it is used.
    Key(KeyArgs),
    /// List clients that are locked out.
    Lockouts {
        /// Text within the entries of the client, such as `user=alice`.
        #[arg(long = "match", value_name = "TEXT")]
        text: Option<String>,
    },
    /// Lift a lockout.
    Unlock {
        /// Id of the lockout, as `tollgate admin lockouts` shows it.
        id: String,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Count and report a rule without enforcing it, until a given time.
    Shadow {
        /// Position such as `shop.yaml:14`, or path such as `shop.user`.
        rule: String,
        #[command(flatten)]
        write: WriteArgs,
        /// Time until its end, such as `30m` or `1h`.
        #[arg(long, value_name = "TIME")]
        ttl: String,
    },
    /// Read the rules again.
    Reload {
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Explain which rules apply to a request, and why.
    Explain {
        /// Domain of the rules.
        #[arg(short, long)]
        domain: String,
        /// Descriptors, each one `key=value[,key=value…]`, or as JSON `[{"key": "path", "value": "/a,b"}]`.
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_descriptor)]
        descriptors: Vec<Descriptor>,
        /// Hits of each descriptor. Unset: one hit; for a budget, a reservation of its amount.
        #[arg(long, value_name = "COUNT")]
        hits: Option<u32>,
    },
    /// Show the counters with the most hits, denials, or use of their limit.
    Top {
        /// Order: `hits`, `denied` or `use`.
        #[arg(long, default_value = "denied", value_name = "ORDER")]
        by: String,
        /// Window, such as `1m`, `5m` or `1h`.
        #[arg(long, default_value = "5m", value_name = "TIME")]
        window: String,
        /// Path or position of a rule, to show only its counters.
        #[arg(long)]
        rule: Option<String>,
        /// Number of counters.
        #[arg(long, default_value_t = 20, value_name = "COUNT")]
        limit: usize,
    },
    /// Show the latest denials.
    Denials {
        /// Path of a rule.
        #[arg(long)]
        rule: Option<String>,
        /// Text within the descriptors.
        #[arg(long = "match", value_name = "TEXT")]
        text: Option<String>,
        /// Number of denials.
        #[arg(long, default_value_t = 20, value_name = "COUNT")]
        limit: usize,
    },
    /// Show rules with their rates, most denials first.
    Rules {
        /// Number of rules.
        #[arg(long, default_value_t = 20, value_name = "COUNT")]
        limit: usize,
    },
    /// Show the rules in force, and errors of the latest load.
    Config,
    /// Show the state of the store: each Redis node with its queue and memory, and Redis settings to change.
    Store,
    /// Show the replicas that share the store, and whether they have the same rules.
    Fleet,
    /// Show the admin actions since the start of the replica.
    Audit,
}

#[derive(Subcommand, Debug)]
enum Overrides {
    /// Set an override for a descriptor. It replaces an earlier override of the descriptor.
    Set {
        #[command(flatten)]
        key: KeyArgs,
        #[command(flatten)]
        effect: Effect,
        #[command(flatten)]
        write: WriteArgs,
        /// Time until its end, such as `30m` or `1h`.
        #[arg(long, value_name = "TIME")]
        ttl: String,
    },
    /// List overrides in force.
    List,
    /// Delete an override, or end the shadow mode of a rule.
    Delete {
        /// Id of the override, as `tollgate admin overrides list` shows it.
        id: String,
        #[command(flatten)]
        write: WriteArgs,
    },
}

/// Effect of an override.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Effect {
    /// Deny the descriptor.
    #[arg(long)]
    block: bool,
    /// Apply no limit to the descriptor.
    #[arg(long)]
    exempt: bool,
    /// Apply this limit, such as `10/minute`.
    #[arg(long, value_name = "LIMIT")]
    limit: Option<String>,
}

/// A descriptor of a domain.
#[derive(Args, Debug)]
struct KeyArgs {
    /// Domain of the rules.
    #[arg(short, long)]
    domain: String,
    /// Descriptor: `key=value[,key=value…]`, or as JSON `[{"key": "path", "value": "/a,b"}]`.
    #[arg(value_name = "KEY=VALUE", value_parser = parse_descriptor)]
    descriptor: Descriptor,
}

/// Arguments of every change.
#[derive(Args, Debug)]
struct WriteArgs {
    /// Reason, for the audit log.
    #[arg(long, short)]
    reason: String,
    /// Report what would change, without changing it.
    #[arg(long)]
    dry_run: bool,
    /// Idempotency key: a change that is sent again with the same key is not made again.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

/// A request to the API, and the text for its answer.
struct Call {
    method: Method,
    path: String,
    body: Option<Value>,
    idempotency_key: Option<String>,
    show: fn(&Value) -> String,
}

impl Call {
    fn get(path: impl Into<String>, show: fn(&Value) -> String) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, idempotency_key: None, show }
    }

    fn post(path: impl Into<String>, body: Value, show: fn(&Value) -> String) -> Self {
        Self { method: Method::POST, body: Some(body), ..Self::get(path, show) }
    }

    /// The answer.
    fn send(&self, client: &AdminClient) -> anyhow::Result<Value> {
        let (method, key) = (self.method.clone(), self.idempotency_key.as_deref());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match &*self.path {
                path if path.starts_with(LOCKOUTS) => client.lockouts(path).await,
                path => client.call(method, path, self.body.as_ref(), key).await,
            }
        })
    }

    /// A change with its reason in the body.
    fn change(
        method: Method,
        path: &str,
        mut body: Value,
        write: &WriteArgs,
        show: fn(&Value) -> String,
    ) -> Self {
        body["reason"] = write.reason.as_str().into();
        let path = if write.dry_run { format!("{path}?dry_run=1") } else { path.to_owned() };
        let idempotency_key = write.idempotency_key.clone();
        Self { method, body: Some(body), idempotency_key, ..Self::get(path, show) }
    }
}

/// Carries out an action and prints its outcome.
pub(super) fn run(args: &AdminCommandArgs) -> anyhow::Result<Exit> {
    let call = call(&args.command);
    let answer = call.send(&args.admin.client()?)?;
    if args.json { print(&format!("{answer:#}\n")) } else { print(&(call.show)(&answer)) }
}

fn call(command: &Command) -> Call {
    match command {
        Command::Overrides(command) => overrides(command),
        Command::Reset { key, write } => {
            Call::change(Method::POST, "/keys:reset", key.body(), write, text::reset)
        }
        Command::Key(KeyArgs { domain, descriptor }) => {
            let descriptor = encoded(&entries(descriptor).to_string());
            let path = format!("/keys?domain={}&descriptor={descriptor}", encoded(domain));
            Call::get(path, text::key)
        }
        Command::Lockouts { text } => {
            Call::get(LOCKOUTS.to_owned() + &parameter("q", text.as_deref()), text::lockouts)
        }
        Command::Unlock { id, write } => {
            let path = format!("/lockouts/{}", encoded(id));
            Call::change(Method::DELETE, &path, json!({}), write, text::unlock)
        }
        Command::Shadow { rule, write, ttl } => {
            let body = json!({ "rule": rule, "ttl": ttl });
            Call::change(Method::POST, "/rules:shadow", body, write, text::override_set)
        }
        Command::Reload { write } => {
            Call::change(Method::POST, "/config:reload", json!({}), write, text::reload)
        }
        Command::Explain { domain, descriptors, hits } => {
            let mut body = explain_body(domain, descriptors);
            if let Some(hits) = hits {
                body["hits"] = (*hits).into();
            }
            Call::post("/explain", body, text::explanation)
        }
        Command::Top { by, window, rule, limit } => {
            let path = format!("/top?by={}&window={}&limit={limit}", encoded(by), encoded(window));
            Call::get(path + &parameter("rule", rule.as_deref()), text::top)
        }
        Command::Denials { rule, text, limit } => {
            let wanted = parameter("rule", rule.as_deref()) + &parameter("q", text.as_deref());
            Call::get(format!("/denials?limit={limit}{wanted}"), state_text::denials)
        }
        Command::Rules { limit } => Call::get(format!("/rules?limit={limit}"), state_text::rules),
        Command::Config => Call::get("/config", state_text::config),
        Command::Store => Call::get("/store", state_text::store),
        Command::Fleet => Call::get("/fleet", state_text::fleet),
        Command::Audit => Call::get("/audit", text::audit),
    }
}

fn overrides(command: &Overrides) -> Call {
    match command {
        Overrides::List => Call::get("/overrides", text::overrides),
        Overrides::Delete { id, write } => {
            let path = format!("/overrides/{}", encoded(id));
            Call::change(Method::DELETE, &path, json!({}), write, text::override_deleted)
        }
        Overrides::Set { key, effect, write, ttl } => {
            let mut body = key.body();
            body["ttl"] = ttl.as_str().into();
            match effect {
                Effect { limit: Some(limit), .. } => body["limit"] = limit.as_str().into(),
                Effect { block: true, .. } => body["block"] = true.into(),
                Effect { .. } => body["exempt"] = true.into(),
            }
            Call::change(Method::PUT, "/overrides", body, write, text::override_set)
        }
    }
}

/// A further parameter of a query; empty without a value.
fn parameter(name: &str, value: Option<&str>) -> String {
    value.map(|value| format!("&{name}={}", encoded(value))).unwrap_or_default()
}

impl KeyArgs {
    fn body(&self) -> Value {
        json!({ "domain": self.domain, "descriptor": entries(&self.descriptor) })
    }
}

fn entries(descriptor: &Descriptor) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let entries = descriptor.entries.iter();
    entries.map(|entry| json!({ "key": text(&entry.key), "value": text(&entry.value) })).collect()
}

fn explain_body(domain: &str, descriptors: &[Descriptor]) -> Value {
    let descriptors = descriptors.iter().map(|of| json!({ "entries": entries(of) }));
    json!({ "domain": domain, "descriptors": descriptors.collect::<Vec<_>>() })
}

/// The explanation of a running service.
///
/// # Errors
/// As for every call, and an answer that is no explanation.
pub(super) fn explain(
    client: &AdminClient,
    domain: &str,
    descriptors: &[Descriptor],
) -> anyhow::Result<Explanation> {
    let call = Call::post("/explain", explain_body(domain, descriptors), text::explanation);
    serde_json::from_value(call.send(client)?).map_err(|error| {
        anyhow::anyhow!("the answer of {} is not an explanation: {error}", client.authority())
    })
}
