//! A limit: how many hits in how long.

use super::Window;

/// So many requests in each window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Hits that may pass in one window. 0 lets nothing pass.
    pub requests_per_unit: u32,
    /// How long that is.
    pub window: Window,
    /// What happens where one window meets the next.
    pub algorithm: Algorithm,
}

impl Limit {
    /// A limit in fixed windows of `unit`.
    pub const fn per(requests_per_unit: u32, unit: Unit) -> Self {
        Self { requests_per_unit, window: unit.window(), algorithm: Algorithm::FixedWindow }
    }

    /// Hits that may pass at once where none did before.
    pub const fn capacity(self) -> u32 {
        match self.algorithm {
            Algorithm::TokenBucket { burst } => burst,
            Algorithm::FixedWindow | Algorithm::SlidingWindow | Algorithm::SlidingLog => {
                self.requests_per_unit
            }
        }
    }

    /// For how long hits may count after they were counted, at the most, in seconds.
    pub fn ttl_secs(self) -> u32 {
        let window_secs = self.window.secs();
        match self.algorithm {
            Algorithm::FixedWindow => window_secs,
            Algorithm::SlidingLog => window_secs.saturating_add(1),
            Algorithm::SlidingWindow => window_secs.saturating_mul(2).saturating_add(1),
            // A bucket may be filled twice, and drains by the limit.
            Algorithm::TokenBucket { burst } => {
                let full = 2 * (u64::from(burst) + 1) * u64::from(window_secs);
                let secs = full.div_ceil(u64::from(self.requests_per_unit.max(1))) + 1;
                u32::try_from(secs).unwrap_or(u32::MAX)
            }
        }
    }

    /// Whether one counter serves both limits. How much each lets pass is another matter.
    pub fn shares_counter_with(self, other: Self) -> bool {
        let same_kind = match (self.algorithm, other.algorithm) {
            (Algorithm::TokenBucket { .. }, Algorithm::TokenBucket { .. }) => true,
            (one, other) => one == other,
        };
        same_kind && self.window == other.window
    }

    /// How long its window is, in seconds; of a calendar's, the unit's own length.
    pub fn nominal_secs(self) -> u32 {
        self.unit().map_or(self.window, Unit::window).secs()
    }

    /// The unit of time that its window is, where it is one.
    pub fn unit(self) -> Option<Unit> {
        match self.window.calendar() {
            Some(calendar) => Some(calendar.period.unit()),
            None => Unit::ALL.into_iter().find(|unit| unit.window() == self.window),
        }
    }
}

/// How hits are counted over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// From zero in every window: exact within one, and twice the limit may pass around the moment where
    /// two of them meet.
    #[default]
    FixedWindow,
    /// Those of this window, and of the one before in proportion to what of it is less than a window ago.
    SlidingWindow,
    /// Those of exactly the last window, each remembered by its time.
    SlidingLog,
    /// A bucket that holds `burst` hits and is refilled at the limit's rate, evenly.
    TokenBucket {
        /// Hits that may pass at once.
        burst: u32,
    },
}

impl Algorithm {
    /// The names in rules, and what they stand for; a bucket's size is still to come. The leaky bucket as
    /// a meter and GCRA are the same automaton as the token bucket.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("fixed_window", Self::FixedWindow),
        ("sliding_window", Self::SlidingWindow),
        ("sliding_log", Self::SlidingLog),
        ("token_bucket", Self::TokenBucket { burst: 0 }),
        ("gcra", Self::TokenBucket { burst: 0 }),
        ("leaky_bucket", Self::TokenBucket { burst: 0 }),
    ];

    /// What is called so in rules.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, algorithm)| algorithm)
    }

    /// Charge mode of rules that name none. A fixed window counts denied hits, as envoyproxy/ratelimit does.
    /// The others would starve a client that sends too much: its denied requests would use up the rate that
    /// it is entitled to.
    pub const fn default_charge(self) -> ChargeMode {
        match self {
            Self::FixedWindow => ChargeMode::Always,
            Self::SlidingWindow | Self::SlidingLog | Self::TokenBucket { .. } => ChargeMode::IfAllowed,
        }
    }

    /// The name in rules.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FixedWindow => "fixed_window",
            Self::SlidingWindow => "sliding_window",
            Self::SlidingLog => "sliding_log",
            Self::TokenBucket { .. } => "token_bucket",
        }
    }
}

/// Whether what is denied counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChargeMode {
    /// It does: hits are counted whatever comes of them.
    #[default]
    Always,
    /// It does not: nothing is counted unless the whole request passes, and never past the limit.
    IfAllowed,
    /// It does not. As long as one hit fits, any number of them passes and counts: what they come to past
    /// the limit is owed. For what is known only afterwards, such as the tokens of an answer.
    Overdraft,
}

impl ChargeMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Always, Self::IfAllowed, Self::Overdraft];

    /// The mode of this name in rules: `always`, `if_allowed` or `overdraft`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Of `hits`, how many must fit for them to pass. A look asks whether one more would; where denied hits
    /// count, it is denied only when the limit is passed.
    pub const fn needs(self, hits: u32) -> u32 {
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

/// What becomes of a descriptor whose hits the store could not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The call fails, and the caller decides.
    #[default]
    Error,
    /// It passes, uncounted.
    Allow,
    /// It is over its limit.
    Deny,
    /// This replica counts it in its own memory, towards its share of the limit.
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

/// What a limit that is exceeded does to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    /// It denies it.
    Enforced,
    /// It denies it together with every other quota of the request.
    Quota,
    /// Nothing.
    Shadow,
    /// Nothing; and it stands for a quota that is not exceeded.
    ShadowQuota,
}

/// What the limits of one request say of it together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Votes {
    enforced_over: bool,
    quotas: usize,
    quotas_over: usize,
}

impl Votes {
    /// Counts the vote of one limit, which is exceeded or not.
    pub const fn cast(&mut self, vote: Vote, over: bool) {
        match vote {
            Vote::Enforced => self.enforced_over |= over,
            Vote::Quota => {
                self.quotas += 1;
                self.quotas_over += over as usize;
            }
            Vote::ShadowQuota => self.quotas += 1,
            Vote::Shadow => {}
        }
    }

    /// Whether the request is denied: by one enforced limit, or by all of its quotas.
    pub const fn deny(self) -> bool {
        self.enforced_over || (self.quotas > 0 && self.quotas_over == self.quotas)
    }
}

/// The units of time that Envoy's protocol knows, shortest first; and how long they are where no calendar
/// says otherwise ([`super::Period`]).
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
    /// 604,800 s: seven days, counted from the epoch, so it begins on a Thursday.
    Week,
    /// 2,592,000 s: thirty days, whatever the calendar says.
    Month,
    /// 31,536,000 s: 365 days, whatever the calendar says.
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
