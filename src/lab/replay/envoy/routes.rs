//! Virtual hosts and routes: the descriptors of each, and the requests that they apply to.

use serde_json::Value;

use super::{Context, actions, field, find_all, flag, is_type, list, matcher, text};
use crate::lab::replay::mapping::{Condition, Matcher, RequestMap, default_denied};

/// A rate limit filter.
pub(super) struct RateLimitFilter<'v> {
    /// Name of the filter, under which routes configure it.
    name: &'v str,
    config: &'v Value,
}

impl<'v> RateLimitFilter<'v> {
    /// Those of a connection manager.
    pub(super) fn all(manager: &'v Value) -> Vec<Self> {
        let filters = list(manager, "http_filters").iter().filter_map(|filter| {
            let config = field(filter, "typed_config").filter(|config| is_type(config, "RateLimit"))?;
            (!flag(filter, "disabled", false)).then_some(Self { name: text(filter, "name"), config })
        });
        filters.collect()
    }

    fn stage(&self) -> i64 {
        matcher::integer(field(self.config, "stage")).unwrap_or_default()
    }
}

/// The routes of a connection manager.
pub(super) fn of<'v>(manager: &'v Value, config: &'v Value) -> Result<&'v Value, String> {
    if let Some(routes) = field(manager, "route_config") {
        return Ok(routes);
    }
    let name = field(manager, "rds").map(|rds| text(rds, "route_config_name")).unwrap_or_default();
    let mut found = Vec::new();
    find_all(config, "RouteConfiguration", 0, &mut found);
    found.into_iter().find(|routes| text(routes, "name") == name).ok_or_else(|| {
        format!(
            "its routes '{name}' come from a control plane: use a dump of the admin endpoint /config_dump"
        )
    })
}

/// The requests that `filter` makes on `routes`. Only the first one whose condition holds is made.
pub(super) fn requests(
    filter: &RateLimitFilter<'_>,
    routes: &Value,
    context: &mut Context,
) -> Vec<RequestMap> {
    let hosts = list(routes, "virtual_hosts");
    let mut by_domain: Vec<_> = hosts
        .iter()
        .flat_map(|host| {
            list(host, "domains").iter().filter_map(Value::as_str).map(move |domain| (domain, host))
        })
        .collect();
    by_domain.sort_by_key(|(domain, _)| std::cmp::Reverse(precedence(domain)));
    let mut requests = Vec::new();
    for (domain, host) in by_domain {
        let is_host = host_condition(domain, context);
        for route in list(host, "routes") {
            let is_route =
                field(route, "match").map(|matched| matcher::route(matched, context)).unwrap_or_default();
            let condition = Condition::All(vec![is_host.clone(), is_route]);
            requests.push(request(filter, condition, host, route, context));
        }
        // A request of this host that no route takes is answered with 404.
        requests.push(empty(is_host));
    }
    requests
}

/// Order of Envoy: exact names, then the longest suffix, then the longest prefix, then all.
fn precedence(domain: &str) -> (u8, usize) {
    match (domain, domain.strip_prefix('*'), domain.strip_suffix('*')) {
        ("*", _, _) => (0, 0),
        (_, Some(suffix), _) => (2, suffix.len()),
        (_, _, Some(prefix)) => (1, prefix.len()),
        (exact, _, _) => (3, exact.len()),
    }
}

fn host_condition(domain: &str, context: &mut Context) -> Condition {
    if domain == "*" {
        return Condition::default();
    }
    let host = context.operator("REQ(:AUTHORITY)", "the choice of a virtual host");
    let text = |text: &str| Box::from(text.as_bytes());
    let matcher = match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
        (Some(suffix), _) => Matcher::Suffix(text(suffix), true),
        (_, Some(prefix)) => Matcher::Prefix(text(prefix), true),
        (None, None) => Matcher::Exact(text(domain), true),
    };
    Condition::Is(host, matcher)
}

fn empty(condition: Condition) -> RequestMap {
    RequestMap { domain: Box::default(), condition, descriptors: Vec::new(), denied: None }
}

/// The request on one route.
fn request(
    filter: &RateLimitFilter<'_>,
    condition: Condition,
    host: &Value,
    route: &Value,
    context: &mut Context,
) -> RequestMap {
    let action = field(route, "route");
    if action.is_none() {
        // Redirects and direct responses are not limited.
        return empty(condition);
    }
    let per_route = [Some(route), Some(host)]
        .into_iter()
        .flatten()
        .find_map(|level| field(field(level, "typed_per_filter_config")?, filter.name));
    if per_route.is_some_and(|config| flag(config, "disabled", false)) {
        return empty(condition);
    }
    let domain = per_route.map(|config| text(config, "domain")).filter(|domain| !domain.is_empty());
    let limits = limits(filter, host, action, per_route);
    let stage = filter.stage();
    let mut descriptors = Vec::new();
    for limit in limits {
        let is_of_stage = matcher::integer(field(limit, "stage")).unwrap_or_default() == stage;
        // Those are settled when the response ends, with hits of their own.
        let is_on_end = flag(limit, "apply_on_stream_done", false);
        if is_on_end {
            context.notes.push("rate limits that apply when a stream is done are left out".to_owned());
        }
        if is_of_stage && !is_on_end {
            descriptors.extend(actions::descriptor(limit, context));
        }
    }
    RequestMap {
        domain: domain.unwrap_or_else(|| text(filter.config, "domain")).as_bytes().into(),
        condition,
        descriptors,
        denied: default_denied(&mut context.format),
    }
}

/// The `rate_limits` that apply to a route.
fn limits<'v>(
    filter: &RateLimitFilter<'v>,
    host: &'v Value,
    action: Option<&'v Value>,
    per_route: Option<&'v Value>,
) -> Vec<&'v Value> {
    let of = |level: Option<&'v Value>| level.map(|level| list(level, "rate_limits")).unwrap_or_default();
    let (of_filter, of_config) = (of(Some(filter.config)), of(per_route));
    if !of_config.is_empty() {
        return of_config.iter().collect();
    }
    if !of_filter.is_empty() {
        return of_filter.iter().collect();
    }
    let (of_route, of_host) = (of(action), of(Some(host)));
    let option = per_route.map(|config| text(config, "vh_rate_limits")).unwrap_or_default();
    let includes = action.is_some_and(|action| flag(action, "include_vh_rate_limits", false));
    let with_host = match option {
        "IGNORE" => false,
        "INCLUDE" => true,
        _ => includes || of_route.is_empty(),
    };
    of_route.iter().chain(of_host.iter().filter(|_| with_host)).collect()
}
