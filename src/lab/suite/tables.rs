//! Fields of test files, for the reader and for the schema that editors check with.

use crate::engine::rules::RULE_FILE;
use crate::engine::schema::{Field, Kind, Object};

const COUNT: Kind = Kind::Uint { min: 0, max: u32::MAX };
/// A number, or a range such as `100..110`.
const RANGE: Kind = Kind::Either(&[COUNT, Kind::Form(r"^[0-9]+\.\.[0-9]+$")]);
/// A number of requests, or true for all of them.
const REQUESTS: Kind = Kind::Either(&[Kind::Bool, RANGE]);
/// A time such as `30s`, `1h30m` or `2d`.
const TIME: Kind = Kind::Either(&[
    Kind::Form(r"^([0-9.]+(w|d|h|m|s|ms|us))+$"),
    Kind::Choice(&["0"]),
    Kind::Uint { min: 0, max: 0 },
]);
/// A time, or a range of times such as `29s..31s`.
const TIME_RANGE: Kind =
    Kind::Either(&[TIME, Kind::Form(r"^([0-9.]+(w|d|h|m|s|ms|us))+\.\.([0-9.]+(w|d|h|m|s|ms|us))+$")]);
/// Rules: paths from the test file, rules in place, or their text.
const RULES: Kind = Kind::Either(&[
    Kind::Text,
    Kind::Object(&RULE_FILE),
    Kind::List(&Kind::Either(&[Kind::Text, Kind::Object(&RULE_FILE)])),
]);
const AMOUNT: Kind = Kind::Either(&[COUNT, Kind::List(&COUNT)]);
const DESCRIPTORS: Kind = Kind::Either(&[ENTRIES, Kind::List(&ENTRIES)]);
const ENTRIES: Kind = Kind::Map(&Kind::Either(&[Kind::Text, Kind::Null]));

const fn field(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field { name, kind, doc }
}

/// A test file.
pub static TEST_FILE: Object = Object {
    name: "test_file",
    doc: "Tests of rules, run by `tollgate test`.",
    fields: &[
        field(
            "rules",
            RULES,
            "Paths of rule files or directories, relative to this file; or the rules themselves.",
        ),
        field("settings", Kind::Object(&SETTINGS), "Settings of the service that change decisions."),
        field("tests", Kind::List(&Kind::Object(&TEST)), "Tests, each with counters of its own."),
        field("never", Kind::List(&Kind::Object(&NEVER)), "Rules that no request of any test may reach."),
    ],
    required: &["rules", "tests"],
};

/// `settings` of a test file.
pub(super) static SETTINGS: Object = Object {
    name: "settings",
    doc: "Settings of the service that change decisions.",
    fields: &[
        field(
            "replicas",
            Kind::Uint { min: 1, max: 1_000_000 },
            "REPLICAS: processes that share the limits; 1 by default.",
        ),
        field(
            "stop_increment",
            Kind::Bool,
            "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT: denied hits do not count by default.",
        ),
        field("shadow_mode", Kind::Bool, "SHADOW_MODE: nothing is denied."),
        field("quota_mode", Kind::Bool, "QUOTA_MODE: every rule is a quota."),
        field("merge_domains", Kind::Bool, "MERGE_DOMAIN_CONFIG: files of one domain are joined."),
        field("hash_key", Kind::Text, "HASH_KEY: secret of values that rules hash."),
        field(
            "on_backend_failure",
            Kind::Choice(&["error", "allow", "deny", "local"]),
            "ON_BACKEND_FAILURE: result of rules that name none when the store fails.",
        ),
        field(
            "headers",
            Kind::Choice(&["none", "draft06", "x", "ietf"]),
            "RATE_LIMIT_HEADERS: style of response headers; draft06 by default.",
        ),
        field(
            "key_format",
            Kind::Choice(&["native", "envoyproxy"]),
            "CACHE_KEY_FORMAT: format of counter keys.",
        ),
        field("key_prefix", Kind::Text, "CACHE_KEY_PREFIX: beginning of counter keys."),
    ],
    required: &[],
};

/// A test.
pub(super) static TEST: Object = Object {
    name: "test",
    doc: "A test: steps in virtual time, beginning with empty counters.",
    fields: &[
        field("name", Kind::Text, "Name in reports."),
        field(
            "start",
            Kind::Text,
            "Time at which the test begins, as RFC 3339; 2026-01-01T00:00:00Z by default.",
        ),
        field("domain", Kind::Text, "Domain of the requests; that of the rules if they have one only."),
        field("steps", Kind::List(&Kind::Object(&STEP)), "Steps, in order."),
    ],
    required: &["name", "steps"],
};

/// A step of a test.
pub(super) static STEP: Object = Object {
    name: "step",
    doc: "A step: requests, new rules, or a change of the store.",
    fields: &[
        field("at", TIME, "Time of the step since the start of the test."),
        field("wait", TIME, "Time between the step before and this one."),
        field("domain", Kind::Text, "Domain of the requests, if it is not that of the test."),
        field(
            "ask",
            DESCRIPTORS,
            "A request: the entries of its descriptor, or a list of descriptors. {n} is the number of the request in the step, {n%10} its remainder.",
        ),
        field(
            "descriptors",
            Kind::List(&Kind::Object(&DESCRIPTOR)),
            "A request in full: descriptors with hits and limits of their own.",
        ),
        field(
            "hits",
            Kind::Int,
            "Hits of each descriptor; 1 by default. 0 reads the counters, less than 0 gives hits back.",
        ),
        field("times", Kind::Uint { min: 1, max: 1_000_000 }, "Number of requests, one after the other."),
        field("every", TIME, "Time between two requests; 0 by default."),
        field(
            "together",
            Kind::Uint { min: 1, max: 1_000 },
            "Number of concurrent requests: the expectation must hold in any order.",
        ),
        field(
            "reserve",
            DESCRIPTORS,
            "A request that holds amounts of its budgets until it is settled, as with POST /v1/reserve.",
        ),
        field(
            "acquire",
            DESCRIPTORS,
            "A request that takes places of its concurrency limits, as with POST /v1/acquire.",
        ),
        field(
            "as",
            Kind::Text,
            "Label of the request, by which later steps name what it holds. {n} is the number of the request.",
        ),
        field(
            "id",
            Kind::Text,
            "Name of a reservation in the API. One that is repeated holds nothing more. {n} is the number of the request.",
        ),
        field(
            "amount",
            AMOUNT,
            "Amount to hold, that of the rules by default; to hold in all, of 'extend'; or to count. A list has one for each descriptor.",
        ),
        field("weight", COUNT, "Places that the request takes; 1 by default."),
        field("ttl", TIME, "Time for which it is held, in place of that of the rules: whole seconds."),
        field(
            "settle",
            Kind::Text,
            "Label of a request that ends: the real amount is counted, as with POST /v1/settle.",
        ),
        field("usage", Kind::Object(&USAGE), "Tokens to count, in place of 'amount'."),
        field("final", Kind::Bool, "False if the amount is that so far, and the request goes on."),
        field("extend", Kind::Text, "Label of a request that needs more time, as with POST /v1/extend."),
        field("renew", Kind::Text, "The same for places, as with POST /v1/renew."),
        field(
            "release",
            Kind::Either(&[Kind::Text, DESCRIPTORS]),
            "Label of a request that ends and gives back what it holds; or the descriptors of requests without a label, the oldest of which end.",
        ),
        field(
            "look",
            DESCRIPTORS,
            "A look at what is used and held of the limits of a request. It counts nothing.",
        ),
        field("reload", RULES, "Rules that take the place of those in force. Rules with errors do not."),
        field(
            "store",
            Kind::Choice(&["down", "up"]),
            "Whether the store of the counters can be reached from here on.",
        ),
        field(
            "expect",
            Kind::Either(&[Kind::Form("^[+!-]+$"), Kind::Object(&EXPECT)]),
            "Expected results: + for a request that passes, - for one that is denied, ! for one that fails; or a map.",
        ),
    ],
    required: &[],
};

/// Tokens of an answer.
pub(super) static USAGE: Object = Object {
    name: "usage",
    doc: "Tokens of the answer of a language model. Each token is of one kind.",
    fields: &[
        field("model", Kind::Text, "Model, for its prices."),
        field("input", COUNT, "Tokens read, but for those below."),
        field("cached", COUNT, "Tokens read from the provider's cache."),
        field("cache_write", COUNT, "Tokens written to the provider's cache."),
        field("output", COUNT, "Tokens written, but for those of reasoning."),
        field("reasoning", COUNT, "Tokens written by the model for itself."),
    ],
    required: &[],
};

/// A descriptor in full.
pub(super) static DESCRIPTOR: Object = Object {
    name: "request_descriptor",
    doc: "A descriptor of a request.",
    fields: &[
        field(
            "entries",
            Kind::List(&Kind::List(&Kind::Either(&[Kind::Text, Kind::Null]))),
            "Entries, each a list of key and value.",
        ),
        field("hits", Kind::Int, "Hits of this descriptor, in place of those of the step."),
        field("limit", Kind::Object(&LIMIT), "Limit that the request brings, in place of the rules."),
    ],
    required: &["entries"],
};

/// A limit in a request.
pub(super) static LIMIT: Object = Object {
    name: "request_limit",
    doc: "Limit that a request brings.",
    fields: &[
        field("requests_per_unit", COUNT, "Hits that may pass in one window."),
        field("unit", Kind::Choice(&["second", "minute", "hour", "day", "week", "month", "year"]), "Window."),
    ],
    required: &["requests_per_unit", "unit"],
};

/// Expectations of a step.
pub(super) static EXPECT: Object = Object {
    name: "expect",
    doc: "Expectations. Counts are of the step's requests; all else holds for each of them.",
    fields: &[
        field("allowed", REQUESTS, "Number of requests that pass, a range, or true for all of them."),
        field("denied", REQUESTS, "Number of requests that are denied, a range, or true for all of them."),
        field("failed", REQUESTS, "Number of requests without a decision, a range, or true for all of them."),
        field("first_denied", RANGE, "Number of the first request that is denied, counted from 1."),
        field("no_deny_before", TIME, "Time since the step's first request before which none is denied."),
        field("layer", Kind::Text, "Layer of the limit that denies, or that has the least left."),
        field("rule", Kind::Text, "That limit's name, or its rule's path."),
        field("limit", RANGE, "That limit's requests per window."),
        field("remaining", RANGE, "Hits left in it."),
        field("used", RANGE, "Hits that count in it, without those that are held."),
        field("held", RANGE, "Hits that open holds have."),
        field("holds", RANGE, "Number of open holds."),
        field("amount", RANGE, "Amount that the request holds."),
        field("charged", RANGE, "Amount that is counted of the request by now."),
        field("returned", RANGE, "Amount that was held and is free again."),
        field(
            "limits",
            Kind::Map(&Kind::Object(&NUMBERS)),
            "Numbers of several limits, by name or by the path of the rule.",
        ),
        field("first", Kind::Bool, "False if the request was settled before."),
        field("late", Kind::Bool, "Whether the amount was counted and no hold ended: it had expired."),
        field("continue", Kind::Bool, "False if a budget is exceeded, and the stream should be cut."),
        field("expires_in", TIME_RANGE, "Time until what is held ends by itself."),
        field(
            "wait",
            TIME_RANGE,
            "Time until a denied request would pass; rounded up to seconds it may be too, as answers have it.",
        ),
        field("lockout", Kind::Bool, "Whether a lockout denies."),
        field(
            "why",
            Kind::Choice(&["limit", "lockout", "size", "held", "too_many_holds", "store"]),
            "Cause of the denial.",
        ),
        field("matched", Kind::Text, "Place of a rule that applies: file:line."),
        field(
            "counter",
            Kind::Text,
            "Key of a counter, without its window; … at the end stands for any rest.",
        ),
        field("unmatched", Kind::Bool, "Whether no rule applies to a descriptor."),
        field(
            "headers",
            Kind::Map(&Kind::Either(&[Kind::Text, Kind::Null])),
            "Response headers; nothing for one that must be absent.",
        ),
        field("metadata", Kind::Map(&Kind::Any), "Dynamic metadata that the answer has, among other."),
        field("body", Kind::Text, "Part of the response body that the rule sets."),
        field(
            "status",
            Kind::Uint { min: 200, max: 599 },
            "HTTP status that Envoy answers with: 200 or 429.",
        ),
        field("errors", RANGE, "Number of errors in reloaded rules."),
    ],
    required: &[],
};

/// Numbers of one limit.
pub(super) static NUMBERS: Object = Object {
    name: "numbers",
    doc: "Numbers of a limit.",
    fields: &[
        field("used", RANGE, "Hits that count, without those that are held."),
        field("held", RANGE, "Hits that open holds have."),
        field("holds", RANGE, "Number of open holds."),
        field("limit", RANGE, "Requests per window."),
        field("remaining", RANGE, "Hits left."),
        field("amount", RANGE, "Amount that the request holds."),
        field("charged", RANGE, "Amount that is counted of the request by now."),
        field("returned", RANGE, "Amount that was held and is free again."),
    ],
    required: &[],
};

/// A rule that must not be reached.
pub(super) static NEVER: Object = Object {
    name: "never",
    doc: "A rule that no request may reach.",
    fields: &[field("rule", Kind::Text, "Path of the rule, or the name of a limit.")],
    required: &["rule"],
};
