//! Values in links.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// `text` as the value of a parameter in a URL.
pub(super) fn query_value(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
