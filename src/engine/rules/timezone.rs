//! Compilation of `timezone`: from fixed windows to calendar windows.

use super::diagnostics::Diagnostics;
use super::source::RateLimit;
use super::span::Located;
use crate::engine::calendar::{self, Zone};
use crate::engine::{Algorithm, Calendar, Period, Unit, Window};

/// Calendar window if `rate_limit` has a `timezone`, else `window`. `algorithm` is that of the limit or the
/// default. `None` after an error.
pub(super) fn in_zone(
    window: Option<Window>,
    rate_limit: &RateLimit,
    algorithm: Option<Algorithm>,
    errors: &mut Diagnostics,
) -> Option<Window> {
    let Some(Located { value: name, span }) = &rate_limit.timezone else { return window };
    let mut refuse = |message: String| errors.push(*span, message);
    let zone = Zone::from_name(name);
    if zone.is_none() {
        refuse(unknown_zone(name));
    }
    if let Some(algorithm) = algorithm.filter(|algorithm| *algorithm != Algorithm::FixedWindow) {
        refuse(other_algorithm(rate_limit, algorithm));
    }
    let period = match (&rate_limit.unit, &rate_limit.window) {
        (Some(unit), None) => {
            // An unknown unit is reported already.
            let unit = Unit::from_name(&unit.value)?;
            let period = Period::of_unit(unit);
            if period.is_none() {
                refuse(format!(
                    "'timezone' has no effect on a {}: write 'unit: day', 'week', 'month' or 'year', or \
                     leave 'timezone' out",
                    unit.name().to_lowercase()
                ));
            }
            period
        }
        (None, Some(_)) => {
            let message = "'timezone' is for the days, weeks, months and years of a calendar: write 'unit: \
                           day', 'week', 'month' or 'year' instead of 'window', or leave 'timezone' out";
            refuse(message.to_owned());
            None
        }
        // A missing and a superfluous unit are reported already.
        (None, None) | (Some(_), Some(_)) => None,
    };
    Some(Window::of_calendar(Calendar { period: period?, zone: zone? }))
}

fn unknown_zone(name: &str) -> String {
    match Zone::nearest(name) {
        Some(nearest) => format!("unknown time zone '{name}': did you mean '{}'?", nearest.name()),
        None => format!(
            "unknown time zone '{name}': write a name of the IANA database ({} here), such as Europe/Berlin \
             or UTC",
            calendar::database_version()
        ),
    }
}

fn other_algorithm(rate_limit: &RateLimit, algorithm: Algorithm) -> String {
    let name = algorithm.name();
    match rate_limit.algorithm {
        Some(_) => format!(
            "'timezone' is for a fixed_window, and this is a {name}: write 'algorithm: fixed_window', or leave \
             'timezone' out"
        ),
        None => format!(
            "'timezone' is for a fixed_window, and 'defaults' make this a {name}: write 'algorithm: \
             fixed_window' beside it, or leave it out"
        ),
    }
}
