//! A limit: how many hits in how long.

use super::Window;

/// So many requests in each unit of time, counted in fixed windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Hits that may pass in one window. 0 lets nothing pass.
    pub requests_per_unit: u32,
    /// The length of the window.
    pub unit: Unit,
}

impl Limit {
    /// The windows this limit counts in.
    pub const fn window(self) -> Window {
        self.unit.window()
    }
}

/// The units of time that Envoy's protocol knows, shortest first.
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
