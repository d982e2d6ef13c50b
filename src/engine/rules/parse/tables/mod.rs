//! Fields of rule files, each with the values that it takes and its meaning: for the parser, and for the schema that
//! editors check with.

use crate::engine::algorithm::places::MAX_PLACES;
use crate::engine::schema::{Field, Kind, Object};
use crate::engine::usage::Weight;

const COUNT: Kind = Kind::Uint { min: 0, max: u32::MAX };
/// Nothing is the empty text.
const TEXT: Kind = Kind::Either(&[Kind::Text, Kind::Null]);
const ALGORITHM: Kind =
    Kind::Choice(&["fixed_window", "sliding_window", "sliding_log", "token_bucket", "gcra", "leaky_bucket"]);
const CHARGE: Kind = Kind::Choice(&["always", "if_allowed", "overdraft"]);
const ON_BACKEND_FAILURE: Kind = Kind::Choice(&["error", "allow", "deny", "local"]);
const LEASING: Kind = Kind::Either(&[Kind::Bool, Kind::Object(&LEASE), Kind::Null]);
/// A rate limit in full, or short.
const LIMIT: Kind =
    Kind::Either(&[Kind::Form(r"^\s*[0-9]+\s*/\s*[A-Za-z0-9.]+\s*$"), Kind::Object(&RATE_LIMIT), Kind::Null]);
/// One text, or a list of them.
const TEXTS: Kind = Kind::Either(&[Kind::Text, Kind::Null, Kind::List(&TEXT)]);

/// Shorthand for the tables below.
const fn field(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field { name, kind, doc }
}

/// A rule file.
pub static RULE_FILE: Object = Object {
    name: "file",
    doc: "Rules of one domain.",
    fields: &[
        field("domain", Kind::Text, "Domain of the requests that the rules apply to."),
        field("hash_tag", Kind::Bool, "true: all counters of the domain are in one slot of a Redis Cluster."),
        field("enabled", Kind::Bool, "false: the file has no effect."),
        field(
            "prices",
            Kind::Map(&Kind::Object(&PRICES_OF_MODEL)),
            "Prices of language models by name, per million tokens. '*' in a name matches any text.",
        ),
        field(
            "defaults",
            Kind::Object(&DEFAULTS),
            "Defaults for rules of the file that do not set these fields.",
        ),
        field(
            "descriptors",
            Kind::Either(&[Kind::List(&Kind::Object(&DESCRIPTOR)), Kind::Null]),
            "Rules for the first entry of a descriptor.",
        ),
    ],
    required: &["domain"],
};

/// A price or a weight: [`Weight::parse`].
const DECIMAL: Kind =
    Kind::Either(&[Kind::Number { min: 0, max: Weight::MAX }, Kind::Form(r"^[0-9]+(\.[0-9]{1,6})?$")]);

/// An entry of `prices`.
pub(super) static PRICES_OF_MODEL: Object = Object {
    name: "prices",
    doc: "Prices of a language model, per million tokens. Each token is of one kind.",
    fields: &[
        field("input", DECIMAL, "Input tokens, without those read from the cache."),
        field("cached", DECIMAL, "Input tokens read from the cache; the price of 'input' by default."),
        field("cache_write", DECIMAL, "Tokens written to the cache; the price of 'input' by default."),
        field("output", DECIMAL, "Output tokens."),
        field("reasoning", DECIMAL, "Reasoning tokens; the price of 'output' by default."),
    ],
    required: &["input", "output"],
};

/// `defaults` of a rule file.
pub(super) static DEFAULTS: Object = Object {
    name: "defaults",
    doc: "Defaults for rules of the file that do not set these fields.",
    fields: &[
        field("algorithm", ALGORITHM, "Algorithm of limits that do not set it."),
        field("charge", CHARGE, "Charge mode of rules that do not set it."),
        field("on_backend_failure", ON_BACKEND_FAILURE, "Result of a descriptor when the store fails."),
        field("lease", LEASING, "Lease of limits that do not set it and can be leased."),
    ],
    required: &[],
};

/// A level of the rule tree.
pub(super) static DESCRIPTOR: Object = Object {
    name: "descriptor",
    doc: "Rule for one entry of a descriptor.",
    fields: &[
        field("key", Kind::Text, "Key of the entry."),
        field("value", TEXT, "Value of the entry, or a pattern with '*'. Without it, any value."),
        field("one_of", Kind::List(&Kind::Text), "Exact values, in place of 'value'."),
        field(
            "cidr",
            Kind::Either(&[Kind::Text, Kind::List(&Kind::Text)]),
            "A network or a list of networks, in place of 'value'.",
        ),
        field("regex", TEXT, "Regular expression for the whole value, in place of 'value'."),
        field(
            "normalize",
            Kind::List(&STEP),
            "Steps that change the value before it is matched and counted.",
        ),
        field("rate_limit", LIMIT, "The limit. Without one, descriptors that end here are not limited."),
        field(
            "concurrency",
            Kind::Either(&[Kind::Object(&CONCURRENCY), Kind::Null]),
            "Limit on requests in flight, in place of 'rate_limit'.",
        ),
        field(
            "rate_limits",
            Kind::Either(&[Kind::List(&LIMIT), Kind::Null]),
            "Several limits, all of which must let a request pass.",
        ),
        field(
            "descriptors",
            Kind::Either(&[Kind::List(&Kind::Object(&DESCRIPTOR)), Kind::Null]),
            "Rules for the next entry.",
        ),
        field(
            "layer",
            TEXT,
            "Name of the layer that the limit protects, such as user, ip or endpoint. Inherited.",
        ),
        field(
            "penalty",
            Kind::Either(&[Kind::Object(&PENALTY), Kind::Null]),
            "Lockout of clients that are denied too often.",
        ),
        field(
            "reserve",
            Kind::Either(&[Kind::Object(&RESERVE), Kind::Null]),
            "Requests hold a part of the limit until their real amount is known, such as the tokens of an answer.",
        ),
        field("on_deny", Kind::Object(&ON_DENY), "Response body and headers for denied requests. Inherited."),
        field("enabled", Kind::Bool, "false: the rule and those below it have no effect."),
        field(
            "enforce_percent",
            Kind::Number { min: 0, max: 100 },
            "Share of the counted keys, in percent, that are enforced.",
        ),
        field("charge", CHARGE, "Charge mode: decides whether denied hits are counted. Inherited."),
        field("max_hits", COUNT, "Upper bound on the hits of a single request."),
        field("headers", Kind::Choice(&["all", "none"]), "none: the limits stay out of headers. Inherited."),
        field(
            "on_backend_failure",
            ON_BACKEND_FAILURE,
            "Result of the descriptor when the store fails. Inherited.",
        ),
        field("shadow_mode", Kind::Bool, "true: counted and reported, never denied."),
        field("quota_mode", Kind::Bool, "true: denies only together with every other quota of the request."),
        field("detailed_metric", Kind::Bool, "true: metrics show the values of the request at every level."),
        field("value_to_metric", Kind::Bool, "true: metrics show the value of the request at this level."),
        field("share_threshold", Kind::Bool, "true: all values that match the pattern count together."),
        field(
            "metadata",
            Kind::Either(&[Kind::Map(&Kind::Any), Kind::Null]),
            "Dynamic metadata of requests that pass.",
        ),
    ],
    required: &["key"],
};

/// A step of `normalize`.
const STEP: Kind = Kind::Either(&[
    Kind::Choice(&["lowercase", "trim", "ip_prefix", "forwarded_for", "hash"]),
    Kind::Single(&Field {
        name: "ip_prefix",
        kind: Kind::Either(&[Kind::Object(&IP_PREFIX), Kind::Null]),
        doc: "Replaces an address by its network.",
    }),
    Kind::Single(&Field {
        name: "forwarded_for",
        kind: Kind::Either(&[Kind::Object(&FORWARDED_FOR), Kind::Null]),
        doc: "Selects one address of a list as in X-Forwarded-For.",
    }),
    Kind::Single(&Field { name: "lowercase", kind: Kind::Null, doc: "ASCII letters become small." }),
    Kind::Single(&Field { name: "trim", kind: Kind::Null, doc: "Removes ASCII white space at both ends." }),
    Kind::Single(&Field {
        name: "hash",
        kind: Kind::Null,
        doc: "Counts and shows the hash of the value instead of the value.",
    }),
]);

/// Options of `ip_prefix`.
pub(super) static IP_PREFIX: Object = Object {
    name: "ip_prefix",
    doc: "Lengths of networks.",
    fields: &[
        field("v4", Kind::Uint { min: 1, max: 32 }, "Bits of an IPv4 network; 32 by default."),
        field("v6", Kind::Uint { min: 1, max: 128 }, "Bits of an IPv6 network; 64 by default."),
    ],
    required: &[],
};

/// Options of `forwarded_for`.
pub(super) static FORWARDED_FOR: Object = Object {
    name: "forwarded_for",
    doc: "Choice of one address.",
    fields: &[field(
        "trusted_hops",
        Kind::Uint { min: 1, max: 100 },
        "Position of the address from the right, counted from 1.",
    )],
    required: &[],
};

/// A limit.
pub(super) static RATE_LIMIT: Object = Object {
    name: "rate_limit",
    doc: "A limit: requests in a window of time.",
    fields: &[
        field(
            "unit",
            Kind::Either(&[
                Kind::Choice(&["second", "minute", "hour", "day", "week", "month", "year"]),
                TEXT,
            ]),
            "Window: second, minute, hour, day, week, month (30 days) or year (365 days).",
        ),
        field("window", TEXT, "Window of any other length, such as 90s, 15m or 2d, in place of 'unit'."),
        field("timezone", TEXT, "Time zone of a calendar day, week, month or year, such as Europe/Berlin."),
        field("requests_per_unit", COUNT, "Hits that may pass in one window; 0 for none."),
        field("algorithm", ALGORITHM, "Algorithm that counts the hits."),
        field("burst", COUNT, "Hits that a token_bucket lets pass at once."),
        field("unlimited", Kind::Bool, "true: no limit, and nothing is counted."),
        field("name", TEXT, "Name in answers, which 'replaces' refers to."),
        field(
            "concurrency",
            Kind::Either(&[Kind::Object(&CONCURRENCY), Kind::Null]),
            "Limit on requests in flight, in place of one on requests in a window.",
        ),
        field("lease", LEASING, "true: replicas charge hits in advance and spend them without asking Redis."),
        field(
            "replaces",
            Kind::Either(&[Kind::List(&Kind::Object(&REPLACES)), Kind::Null]),
            "Limits that do not apply in a request that this one applies to.",
        ),
    ],
    required: &[],
};

/// `lease` of a limit.
pub(super) static LEASE: Object = Object {
    name: "lease",
    doc: "Hits that a replica charges in advance.",
    fields: &[
        field("hold", Kind::Text, "Time for which a replica keeps hits; 100ms by default."),
        field(
            "tail",
            Kind::Form("^[0-9]+ *%$"),
            "Last part of the limit, which is never leased; 10% by default.",
        ),
        field("max", COUNT, "Upper bound on the hits of one lease; 10000 by default."),
    ],
    required: &[],
};

/// `concurrency` of a rule or a limit.
pub(super) static CONCURRENCY: Object = Object {
    name: "concurrency",
    doc: "Limit on requests in flight.",
    fields: &[
        field("max", Kind::Uint { min: 0, max: MAX_PLACES }, "Requests in flight at once; 0 for none."),
        field(
            "ttl",
            Kind::Text,
            "Time after which a request that did not end counts as ended, such as 2m: longer than any request takes.",
        ),
        field("name", TEXT, "Name in answers, which 'replaces' refers to."),
    ],
    required: &["max", "ttl"],
};

/// An entry of `replaces`.
pub(super) static REPLACES: Object = Object {
    name: "replaces",
    doc: "A limit that does not apply.",
    fields: &[field("name", Kind::Text, "Name of the limit.")],
    required: &["name"],
};

/// `penalty` of a rule.
pub(super) static PENALTY: Object = Object {
    name: "penalty",
    doc: "Lockout of clients that are denied too often.",
    fields: &[
        field("after", COUNT, "Denied requests that begin a block; 1 by default."),
        field(
            "within",
            TEXT,
            "Time in which these denied requests must come; the longest window of the rule by default.",
        ),
        field("block", TEXTS, "Lengths of successive blocks, such as [1m, 5m, 1d], and permanent."),
        field("forget", TEXT, "Time after a block until the first length applies again; 24h by default."),
        field("extend", Kind::Bool, "true: a request while blocked restarts the block."),
        field("scope", TEXTS, "Keys whose values are locked out; all keys of the descriptor by default."),
        field("name", TEXT, "Name in answers. Rules with one name and one scope share their lockouts."),
    ],
    required: &["block"],
};

/// `count` of a budget.
pub(super) static TOKEN_WEIGHTS: Object = Object {
    name: "weights",
    doc: "Weights of tokens by kind. A kind without a weight is not counted.",
    fields: &[
        field("input", DECIMAL, "Input tokens, without those read from the cache."),
        field("cached", DECIMAL, "Input tokens read from the cache."),
        field("cache_write", DECIMAL, "Tokens written to the cache."),
        field("output", DECIMAL, "Output tokens."),
        field("reasoning", DECIMAL, "Reasoning tokens."),
    ],
    required: &[],
};

/// `reserve` of a rule.
pub(super) static RESERVE: Object = Object {
    name: "reserve",
    doc: "Amounts that requests hold until their real amounts are known.",
    fields: &[
        field(
            "amount",
            Kind::Either(&[Kind::Uint { min: 1, max: u32::MAX }, Kind::Choice(&["auto"])]),
            "Amount that a request holds if it names none. auto: estimated from settled amounts.",
        ),
        field("ttl", TEXT, "Time after which a hold ends by itself, such as 90s: 1s to 1h, 60s by default."),
        field(
            "max",
            TEXT,
            "Upper bound on the amount of one hold, as a part of the limit such as 25%; 100% by default.",
        ),
        field(
            "on_expiry",
            Kind::Choice(&["release", "charge"]),
            "Effect of a hold that ends by itself: release (the default) frees it, charge counts it.",
        ),
        field(
            "memory",
            TEXT,
            "Time for which a settled ticket is remembered, such as 10m, which is the default.",
        ),
        field(
            "count",
            Kind::Either(&[Kind::Choice(&["tokens", "cost"]), Kind::Object(&TOKEN_WEIGHTS)]),
            "Amount of a usage: all tokens (the default), their cost by 'prices' in millionths of the currency, or a \
             weight for each kind.",
        ),
        field(
            "on_look",
            Kind::Bool,
            "false: requests with 0 hits hold nothing, and those with hits hold them.",
        ),
    ],
    required: &["amount"],
};

/// `on_deny` of a rule.
pub(super) static ON_DENY: Object = Object {
    name: "on_deny",
    doc: "Response to denied requests.",
    fields: &[
        field(
            "body",
            Kind::Either(&[Kind::Choice(&["problem_json"]), Kind::Object(&BODY)]),
            "problem_json, or a text. Without it, Envoy sends its own body.",
        ),
        field("headers", Kind::Either(&[Kind::Map(&TEXT), Kind::Null]), "Headers to add, up to 32."),
    ],
    required: &[],
};

/// `body` of `on_deny`.
pub(super) static BODY: Object = Object {
    name: "body",
    doc: "Body of the response to denied requests.",
    fields: &[
        field("text", TEXT, "Text with the placeholders {limit}, {remaining}, {reset}, {layer} and {rule}."),
        field("content_type", TEXT, "Media type; text/plain; charset=utf-8 by default."),
    ],
    required: &["text"],
};

#[cfg(test)]
mod tests;
