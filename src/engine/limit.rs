//! Limits, and the options that say how they are counted and enforced.

use super::Window;

/// Number of hits per window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Hits that may pass in one window, or requests in flight; 0 denies everything.
    pub requests_per_unit: u32,
    /// Length of the window; of a concurrency limit, the time for which a place is held at most.
    pub window: Window,
    /// Algorithm that counts hits over time.
    pub algorithm: Algorithm,
}

impl Limit {
    /// A limit in fixed windows of `unit`.
    pub const fn per(requests_per_unit: u32, unit: Unit) -> Self {
        Self { requests_per_unit, window: unit.window(), algorithm: Algorithm::FixedWindow }
    }

    /// Hits that may pass at once on an empty counter.
    pub const fn capacity(self) -> u32 {
        match self.algorithm {
            Algorithm::TokenBucket { burst } => burst,
            Algorithm::FixedWindow
            | Algorithm::SlidingWindow
            | Algorithm::SlidingLog
            | Algorithm::Concurrency => self.requests_per_unit,
        }
    }

    /// Upper bound, in seconds, on how long a hit affects its counter; used as the TTL.
    pub fn ttl_secs(self) -> u32 {
        let window_secs = self.window.secs();
        match self.algorithm {
            Algorithm::FixedWindow => window_secs,
            Algorithm::SlidingLog | Algorithm::Concurrency => window_secs.saturating_add(1),
            Algorithm::SlidingWindow => window_secs.saturating_mul(2).saturating_add(1),
            // The level is at most twice the burst, and drains at the limit's rate.
            Algorithm::TokenBucket { burst } => {
                let full = 2 * (u64::from(burst) + 1) * u64::from(window_secs);
                let secs = full.div_ceil(u64::from(self.requests_per_unit.max(1))) + 1;
                u32::try_from(secs).unwrap_or(u32::MAX)
            }
        }
    }

    /// True if both limits are counted by the same counter: same algorithm and window, whatever the amount.
    pub fn shares_counter_with(self, other: Self) -> bool {
        let same_kind = match (self.algorithm, other.algorithm) {
            (Algorithm::TokenBucket { .. }, Algorithm::TokenBucket { .. }) => true,
            (one, other) => one == other,
        };
        same_kind && self.counter_window() == other.counter_window()
    }

    /// Window that is part of the counter's name. Places stay held when a rule gives them another time.
    pub const fn counter_window(self) -> Window {
        match self.algorithm {
            Algorithm::Concurrency => Window::of_secs(1),
            _ => self.window,
        }
    }

    /// True if it limits requests in flight, not hits over time.
    pub const fn is_concurrency(self) -> bool {
        matches!(self.algorithm, Algorithm::Concurrency)
    }

    /// Length of the window in seconds; for a calendar window, that of its unit.
    pub fn nominal_secs(self) -> u32 {
        self.unit().map_or(self.window, Unit::window).secs()
    }

    /// The unit of the window, if it is exactly one unit. Requests in flight have none.
    pub fn unit(self) -> Option<Unit> {
        if self.is_concurrency() {
            return None;
        }
        match self.window.calendar() {
            Some(calendar) => Some(calendar.period.unit()),
            None => Unit::ALL.into_iter().find(|unit| unit.window() == self.window),
        }
    }
}

/// Algorithm that counts hits over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Counts from zero in every window. Exact within a window; twice the limit may pass around a boundary.
    #[default]
    FixedWindow,
    /// Counts the hits of the current window, and those of the previous one in proportion to its overlap with a
    /// window that ends now.
    SlidingWindow,
    /// Counts the hits of exactly the last window; stores the time of each hit.
    SlidingLog,
    /// A bucket of `burst` hits, refilled evenly at the limit's rate.
    TokenBucket {
        /// Hits that may pass at once.
        burst: u32,
    },
    /// Requests in flight: each takes a place, and gives it back when it ends.
    Concurrency,
}

impl Algorithm {
    /// Names of `algorithm` in rules. The compiler sets the burst. GCRA and the leaky bucket as a meter are
    /// equivalent to the token bucket.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("fixed_window", Self::FixedWindow),
        ("sliding_window", Self::SlidingWindow),
        ("sliding_log", Self::SlidingLog),
        ("token_bucket", Self::TokenBucket { burst: 0 }),
        ("gcra", Self::TokenBucket { burst: 0 }),
        ("leaky_bucket", Self::TokenBucket { burst: 0 }),
    ];

    /// The algorithm with this name in rules.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, algorithm)| algorithm)
    }

    /// Charge mode of rules that do not set it. A fixed window counts denied hits, as envoyproxy/ratelimit does.
    /// The others would starve a client that sends too much: its denied requests would use up the rate that
    /// it is entitled to.
    pub const fn default_charge(self) -> ChargeMode {
        match self {
            Self::FixedWindow => ChargeMode::Always,
            Self::SlidingWindow | Self::SlidingLog | Self::TokenBucket { .. } | Self::Concurrency => {
                ChargeMode::IfAllowed
            }
        }
    }

    /// Name in rules and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FixedWindow => "fixed_window",
            Self::SlidingWindow => "sliding_window",
            Self::SlidingLog => "sliding_log",
            Self::TokenBucket { .. } => "token_bucket",
            Self::Concurrency => "concurrency",
        }
    }
}

/// Mode of counting denied hits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChargeMode {
    /// Denied hits count too.
    #[default]
    Always,
    /// Hits count only if the whole request passes, so never beyond the limit.
    IfAllowed,
    /// Hits count only if the whole request passes. While one more hit fits, a request of any size passes and
    /// counts in full; later requests are denied until the excess has drained. For costs that are known only
    /// afterwards, such as the tokens of a response.
    Overdraft,
}

impl ChargeMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Always, Self::IfAllowed, Self::Overdraft];

    /// The mode of this name in rules: `always`, `if_allowed` or `overdraft`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Number of hits that must fit for a charge of `hits` to pass. A peek passes if one more hit would.
    pub const fn hits_to_fit(self, hits: u32) -> u32 {
        match self {
            Self::Always | Self::IfAllowed if hits > 0 => hits,
            Self::Always | Self::IfAllowed | Self::Overdraft => 1,
        }
    }

    /// The name in rules.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::IfAllowed => "if_allowed",
            Self::Overdraft => "overdraft",
        }
    }
}

/// Result of a descriptor whose hits the store could not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The call fails, and the caller decides, unless another descriptor denies the request.
    #[default]
    Error,
    /// The descriptor passes, uncounted.
    Allow,
    /// The descriptor is over its limit.
    Deny,
    /// This replica counts the hits in its own memory, towards its share of the limit.
    Local,
}

impl FailurePolicy {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Error, Self::Allow, Self::Deny, Self::Local];

    /// The policy of this name in rules: `error`, `allow`, `deny` or `local`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// The name in rules.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Local => "local",
        }
    }
}

/// Effect of an exceeded limit on its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// Denies the request.
    Enforced,
    /// Denies the request if all quotas of the request are exceeded.
    Quota,
    /// None.
    Shadow,
    /// None; counts as a quota that is not exceeded.
    ShadowQuota,
}

/// Combined effect of the limits of one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct CombinedEnforcement {
    enforced_over: bool,
    quotas: usize,
    quotas_over: usize,
}

impl CombinedEnforcement {
    /// Adds one limit, which is exceeded or not.
    pub const fn add(&mut self, enforcement: Enforcement, over: bool) {
        match enforcement {
            Enforcement::Enforced => self.enforced_over |= over,
            Enforcement::Quota => {
                self.quotas += 1;
                self.quotas_over += over as usize;
            }
            Enforcement::ShadowQuota => self.quotas += 1,
            Enforcement::Shadow => {}
        }
    }

    /// True if the request is denied: by one enforced limit, or by all of its quotas.
    pub const fn is_denied(self) -> bool {
        self.enforced_over || (self.quotas > 0 && self.quotas_over == self.quotas)
    }
}

/// Units of time in Envoy's protocol, shortest first, with their lengths outside of a calendar
/// ([`super::Period`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// 1 s
    Second,
    /// 60 s
    Minute,
    /// 3,600 s
    Hour,
    /// 86,400 s
    Day,
    /// 604,800 s: seven days, counted from the epoch, so it begins on Thursday.
    Week,
    /// 2,592,000 s: always 30 days.
    Month,
    /// 31,536,000 s: always 365 days.
    Year,
}

impl Unit {
    /// Every unit, shortest first.
    pub const ALL: [Self; 7] =
        [Self::Second, Self::Minute, Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// The unit of this name, in upper, lower or mixed case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.name().eq_ignore_ascii_case(name))
    }

    /// The name as Envoy's protocol spells it: `SECOND`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Second => "SECOND",
            Self::Minute => "MINUTE",
            Self::Hour => "HOUR",
            Self::Day => "DAY",
            Self::Week => "WEEK",
            Self::Month => "MONTH",
            Self::Year => "YEAR",
        }
    }

    /// The windows of this unit.
    pub const fn window(self) -> Window {
        Window::of_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
            Self::Week => 604_800,
            Self::Month => 2_592_000,
            Self::Year => 31_536_000,
        })
    }
}
