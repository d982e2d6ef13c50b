//! Settings of the operator that apply to every rule.

/// Settings that apply to every rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Modes {
    /// Counts every request and denies none.
    pub shadow_mode: bool,
    /// Treats every rule as a quota.
    pub quota_mode: bool,
    /// Share of a limit, 0 to 1, above which hits count as near it.
    pub near_limit_ratio: f32,
}

impl Default for Modes {
    fn default() -> Self {
        Self { shadow_mode: false, quota_mode: false, near_limit_ratio: 0.8 }
    }
}
