//! Names of Envoy's operators.

use super::Source;

/// Operators whose argument is the name of a header, which has no case.
const HEADERS: &[(&str, &str)] = &[
    ("REQ", "REQ"),
    ("REQUEST_HEADER", "REQ"),
    ("RESP", "RESP"),
    ("RESPONSE_HEADER", "RESP"),
    ("TRAILER", "TRAILER"),
    ("RESPONSE_TRAILER", "TRAILER"),
];
const REMOTE_ADDRESS: &str = "DOWNSTREAM_REMOTE_ADDRESS";

/// One spelling for each operator: `REQUEST_HEADER(x-user):10` is `REQ(X-USER)`. Other names stay as they are.
pub(in crate::lab::replay) fn canonical(name: &str) -> String {
    let Some((operator, rest)) = name.split_once('(') else { return name.trim().to_owned() };
    let Some((argument, length)) = rest.rsplit_once(')') else { return name.trim().to_owned() };
    let is_length = |text: &str| text.strip_prefix(':').is_some_and(|text| text.parse::<u32>().is_ok());
    if !(length.is_empty() || is_length(length)) {
        return name.trim().to_owned();
    }
    match HEADERS.iter().find(|(written, _)| *written == operator) {
        Some((_, short)) => format!("{short}({})", argument.to_ascii_uppercase()),
        None => format!("{operator}({argument})"),
    }
}

/// The argument of `START_TIME(…)`, unless it is empty.
pub(super) fn strftime_argument(name: &str) -> Option<&str> {
    let argument = name.strip_prefix("START_TIME(")?.strip_suffix(')')?;
    (!argument.is_empty()).then_some(argument)
}

/// The field of this name among `names`, or one that contains its value.
pub(super) fn find(names: &[String], name: &str) -> Option<Source> {
    let whole = |index| Source { index, without_port: false };
    let position = |wanted: &dyn Fn(&str) -> bool| names.iter().position(|name| wanted(name));
    if let Some(index) = position(&|found| found == name) {
        return Some(whole(index));
    }
    if name == super::START_TIME {
        return position(&|found| found.starts_with("START_TIME(")).map(whole);
    }
    if name.strip_prefix(REMOTE_ADDRESS) == Some("_WITHOUT_PORT") {
        let index = position(&|found| found == REMOTE_ADDRESS)?;
        return Some(Source { index, without_port: true });
    }
    // `REQ(X-ENVOY-ORIGINAL-PATH?:PATH)` is the path that the client sent.
    let header = name.strip_prefix("REQ(")?.strip_suffix(')')?;
    let has = |found: &str| {
        let alternatives = found.strip_prefix("REQ(").and_then(|rest| rest.strip_suffix(')'));
        alternatives.is_some_and(|both| both.split('?').any(|one| one == header))
    };
    position(&has).map(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_have_one_spelling() {
        for (written, expected) in [
            ("REQ(x-User)", "REQ(X-USER)"),
            ("REQUEST_HEADER(x-user):12", "REQ(X-USER)"),
            ("RESPONSE_HEADER(a?b)", "RESP(A?B)"),
            ("DYNAMIC_METADATA(io.envoy:Tokens)", "DYNAMIC_METADATA(io.envoy:Tokens)"),
            ("a.b", "a.b"),
            ("odd(", "odd("),
        ] {
            assert_eq!(canonical(written), expected);
        }
    }

    #[test]
    fn a_value_is_found_where_another_field_contains_it() {
        let names = ["START_TIME(%s)", "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)", REMOTE_ADDRESS].map(str::to_owned);
        for (name, expected) in [
            ("START_TIME", Some((0, false))),
            ("REQ(:PATH)", Some((1, false))),
            ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Some((2, true))),
            ("REQ(:METHOD)", None),
        ] {
            let found = find(&names, name).map(|source| (source.index, source.without_port));
            assert_eq!(found, expected, "{name}");
        }
    }
}
