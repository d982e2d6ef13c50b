//! Patterns other than values and globs: lists of values, networks, regular expressions.
//!
//! Each pattern has a canonical text, which shared counters and metrics contain: `one_of(gold,silver)`,
//! `cidr(10.0.0.0/8)`, `regex(/v[0-9]+)`. It does not depend on the order of a list, and no two patterns share
//! one. A long text is replaced by its digest.

use std::borrow::Cow;
use std::fmt::Write as _;

use hashbrown::HashMap;
use ipnet::IpNet;
use regex_automata::meta::{self, Regex};
use regex_automata::util::syntax;
use ring::digest;

/// Upper bound, in bytes, on the text of a pattern; longer ones are digests.
const TEXT_BYTES_MAX: usize = 200;
/// Upper bound, in bytes, on an expression as written.
const EXPRESSION_BYTES_MAX: usize = 4096;
/// Upper bound, in bytes, on a compiled expression and on the memory of each thread that matches it.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// Upper bound, in bytes, on all compiled expressions of a load.
const LOAD_BYTES_MAX: usize = 64 << 20;

/// Expressions of a load, each compiled once, and the remaining memory for others. Without a bound, a small
/// file with large character classes would take gigabytes.
#[derive(Debug)]
pub struct Expressions {
    known: HashMap<Box<str>, Expression>,
    bytes_left: usize,
}

impl Default for Expressions {
    fn default() -> Self {
        Self { known: HashMap::new(), bytes_left: LOAD_BYTES_MAX }
    }
}

impl Expressions {
    /// Expression `written`; `None` after the memory bound was exceeded, which is reported once.
    ///
    /// # Errors
    /// Syntax error, or size of the compiled expression or of all expressions of the load.
    pub fn get(&mut self, written: &str) -> Result<Option<Expression>, String> {
        if let Some(known) = self.known.get(written) {
            return Ok(Some(known.clone()));
        }
        if self.bytes_left == 0 {
            return Ok(None);
        }
        let expression = Expression::new(written)?;
        match self.bytes_left.checked_sub(expression.regex.memory_usage()) {
            Some(left @ 1..) => self.bytes_left = left,
            Some(0) | None => {
                self.bytes_left = 0;
                return Err(format!(
                    "is too much: all expressions together take more than {LOAD_BYTES_MAX} bytes when compiled; \
                     use fewer or smaller ones ((?u) makes \\w and \\d large)"
                ));
            }
        }
        self.known.insert(written.into(), expression.clone());
        Ok(Some(expression))
    }
}

/// List of exact values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOf {
    /// Ordered, each of them once; at least one.
    pub values: Box<[Box<str>]>,
    text: Box<str>,
}

impl OneOf {
    /// List of `values`.
    pub fn new(values: impl IntoIterator<Item = Box<str>>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_unstable();
        values.dedup();
        let text = text("one_of", values.iter().map(|value| quoted(value)));
        Self { values: values.into(), text }
    }

    /// Canonical text: `one_of(gold,silver)`.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Ordered, each of them once; at least one.
    pub networks: Box<[IpNet]>,
    text: Box<str>,
}

impl Cidr {
    /// Set of `networks`.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut networks: Vec<_> = networks.into_iter().collect();
        networks.sort_unstable();
        networks.dedup();
        let text = text("cidr", networks.iter().map(|network| network.to_string().into()));
        Self { networks: networks.into(), text }
    }

    /// Canonical text: `cidr(10.0.0.0/8,fd00::/8)`.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Regular expression that matches whole values in linear time.
#[derive(Clone, Debug)]
pub struct Expression {
    written: Box<str>,
    text: Box<str>,
    regex: Regex,
}

impl Expression {
    /// Compiles `written`. It matches bytes: `.` matches any byte, so that values that are not UTF-8 do not
    /// escape the rule; `(?u)` enables Unicode.
    ///
    /// # Errors
    /// Syntax error, or size of the compiled expression.
    pub fn new(written: &str) -> Result<Self, String> {
        if written.is_empty() {
            return Err("is empty: write a pattern for the values".to_owned());
        }
        if written.len() > EXPRESSION_BYTES_MAX {
            return Err(format!("is too large: write at most {EXPRESSION_BYTES_MAX} bytes"));
        }
        // Check it alone first: unbalanced parentheses could end the group around it.
        syntax::parse_with(written, &syntax_config()).map_err(|error| not_an_expression(&error))?;
        // If it ends in a comment, only a line break ends that.
        let regex =
            build(&format!(r"\A(?:{written})\z")).or_else(|_| build(&format!("\\A(?:{written}\n)\\z")))?;
        // Digests and quoted texts begin with characters that no other text begins with.
        let shown = if written.starts_with(['…', '"']) { quoted(written) } else { written.into() };
        Ok(Self { written: written.into(), text: text("regex", [shown].into_iter()), regex })
    }

    /// As written.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// True if it certainly matches every value.
    pub(super) fn is_universal(&self) -> bool {
        [".*", "(?s).*", ".*?"].contains(&&*self.written)
    }

    /// The one value that it matches, if it certainly has one only.
    pub(super) fn literal(&self) -> Option<&str> {
        let is_literal = |c: char| c.is_ascii_alphanumeric() || "/_-:@ ".contains(c);
        self.written.chars().all(is_literal).then_some(&self.written)
    }

    /// `regex(/v[0-9]+)`
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if it matches the whole `value`.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for Expression {}

fn syntax_config() -> syntax::Config {
    syntax::Config::new().utf8(false).unicode(false).dot_matches_new_line(true)
}

fn build(text: &str) -> Result<Regex, String> {
    let config = meta::Config::new()
        .utf8_empty(false)
        .nfa_size_limit(Some(COMPILED_BYTES_MAX))
        .hybrid_cache_capacity(COMPILED_BYTES_MAX);
    let built = meta::Builder::new().configure(config).syntax(syntax_config()).build(text);
    built.map_err(|error| match error.syntax_error() {
        Some(error) => not_an_expression(error),
        None => {
            format!("is too large: it would take more than {COMPILED_BYTES_MAX} bytes; repeat less in it")
        }
    })
}

fn not_an_expression(error: &dyn std::error::Error) -> String {
    let shown = error.to_string();
    let reason = shown.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let reason = reason.unwrap_or("it cannot be read").to_owned();
    let hint =
        if reason.contains("Unicode") { "; for characters beyond ASCII write (?u) in front" } else { "" };
    format!("is not a regular expression: {reason}{hint}")
}

/// Canonical text: `kind(item,item)`, or `kind(…2000:DIGEST)` with the length if it is long. No item begins
/// with `…`.
fn text<'a>(kind: &str, items: impl Iterator<Item = Cow<'a, str>>) -> Box<str> {
    let (mut inner, mut count) = (String::new(), 0_usize);
    for item in items {
        if count > 0 {
            inner.push(',');
        }
        inner += &item;
        count += 1;
    }
    if inner.len() <= TEXT_BYTES_MAX {
        return format!("{kind}({inner})").into();
    }
    let digest = digest::digest(&digest::SHA256, inner.as_bytes());
    let mut short = format!("{kind}(…{}:", inner.len());
    for byte in &digest.as_ref()[..16] {
        // Writing to a text cannot fail.
        write!(short, "{byte:02x}").ok();
    }
    (short + ")").into()
}

/// `value`, quoted unless it consists of unambiguous characters.
fn quoted(value: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:@+%=&?#~!*$|".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) {
        Cow::Borrowed(value)
    } else {
        Cow::Owned(format!("{value:?}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one_of(values: &[String]) -> OneOf {
        OneOf::new(values.iter().map(|value| value.as_str().into()))
    }

    #[test]
    fn texts_are_readable_and_do_not_depend_on_the_order() {
        let list = |values: &[&str]| OneOf::new(values.iter().map(|value| (*value).into())).text().to_owned();
        assert_eq!(list(&["silver", "gold"]), "one_of(gold,silver)");
        assert_eq!(list(&["b c", "", "a,b", "größe"]), r#"one_of("","a,b","b c",größe)"#);
        let cidr = |networks: &[&str]| {
            Cidr::new(networks.iter().map(|network| network.parse().expect("a network"))).text().to_owned()
        };
        assert_eq!(cidr(&["fd00::/8", "10.0.0.0/8"]), "cidr(10.0.0.0/8,fd00::/8)");
        let regex = |written: &str| Expression::new(written).expect("an expression").text().to_owned();
        assert_eq!(regex("^/v[0-9]+"), "regex(^/v[0-9]+)");
    }

    #[test]
    fn long_texts_are_digests_and_still_differ() {
        let many = |last: &str| {
            let values = (0..1_000).map(|number| format!("value{number}")).chain([last.to_owned()]);
            OneOf::new(values.map(Into::into))
        };
        let (a, b) = (many("a"), many("b"));
        assert!(a.text().len() < 60 && a.text().starts_with("one_of(…"), "{}", a.text());
        assert_ne!(a.text(), b.text());
        let posing = a.text().trim_start_matches("one_of(").trim_end_matches(')').to_owned();
        assert_ne!(one_of(std::slice::from_ref(&posing)).text(), a.text());
        let long = Expression::new(&"a".repeat(500)).expect("an expression");
        let posing = long.text().trim_start_matches("regex(").trim_end_matches(')').to_owned();
        assert_ne!(Expression::new(&posing).expect("an expression").text(), long.text());
    }

    #[test]
    fn expressions_take_whole_values_of_any_bytes() {
        for (written, taken, refused) in [
            ("a|ab", &["a", "ab"][..], &["abc", "xa", ""][..]),
            ("/v[0-9]+/.*", &["/v1/", "/v12/\n"], &["/v/", " /v1/"]),
            ("^a$", &["a"], &["a\n", "ba"]),
            ("(?i)get|post", &["GET", "pOsT"], &["gets"]),
            ("(?x) a b  # and no more", &["ab"], &["a b", "abc"]),
            ("(?m)^a$", &["a"], &["a\na", "b\na"]),
            ("ü.*", &["ü", "üx"], &["u"]),
            ("(?u)[äü]{2}", &["äü"], &["ä"]),
        ] {
            let expression = Expression::new(written).unwrap_or_else(|error| panic!("{written} {error}"));
            taken
                .iter()
                .for_each(|value| assert!(expression.matches(value.as_bytes()), "{written} {value:?}"));
            refused
                .iter()
                .for_each(|value| assert!(!expression.matches(value.as_bytes()), "{written} {value:?}"));
        }
        assert!(Expression::new("/api/.*").expect("an expression").matches(b"/api/\xff\xfe"));
    }

    #[test]
    fn all_expressions_of_a_load_share_one_budget() {
        let mut expressions = Expressions::default();
        let mut built = 0;
        let written = |n: usize| format!(r"(?u)\w{{5}}a{n}");
        let error = loop {
            match expressions.get(&written(built)) {
                Ok(expression) => assert!(expression.is_some()),
                Err(error) => break error,
            }
            built += 1;
            assert!(built < 10_000, "a large class has a size");
        };
        assert!(error.contains("all expressions together take more than 67108864 bytes"), "{error}");
        assert!(built > 10, "{built}");
        assert_eq!(expressions.get("a").map(|found| found.is_some()), Ok(false), "reported once");
        assert_eq!(expressions.get(&written(0)).map(|found| found.is_some()), Ok(true), "it is there");
    }

    #[test]
    fn invalid_expressions_are_rejected_with_the_reason() {
        for (written, expected) in [
            ("(", "is not a regular expression: unclosed group"),
            ("a)|(b", "is not a regular expression: unopened group"),
            ("a**{", "is not a regular expression: "),
            (r"(a)\1", "is not a regular expression: backreferences are not supported"),
            ("(?=a)", "is not a regular expression: look-around, including look-ahead"),
            (
                "[ü]",
                "is not a regular expression: Unicode not allowed here; for characters beyond ASCII write (?u)",
            ),
            ("(?u)\\w{5000}", "is too large: it would take more than 1048576 bytes"),
            ("", "is empty"),
        ] {
            let error = Expression::new(written).expect_err(written);
            assert!(error.starts_with(expected), "{written}: {error}");
        }
        let long = Expression::new(&"a".repeat(5_000)).expect_err("too long");
        assert!(long.starts_with("is too large: write at most 4096 bytes"), "{long}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn different_lists_have_different_texts(
            a in prop::collection::btree_set("[a,()\" \\\\…ü]{0,4}", 1..4),
            b in prop::collection::btree_set("[a,()\" \\\\…ü]{0,4}", 1..4),
        ) {
            let (values_a, values_b): (Vec<_>, Vec<_>) = (a.iter().cloned().collect(), b.iter().cloned().collect());
            prop_assert_eq!(one_of(&values_a).text() == one_of(&values_b).text(), a == b);
        }
    }
}
