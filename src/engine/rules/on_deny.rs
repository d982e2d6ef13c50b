//! `on_deny`: response body and headers for denied requests. Templates are parsed and checked when rules load,
//! and rendered for each denial.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use http::{HeaderName, HeaderValue};

/// Upper bound, in bytes, on the text of a body, since every denial contains it.
pub const MAX_TEXT_BYTES: usize = 16 * 1024;
/// Upper bound on the headers of one rule.
pub const MAX_HEADERS: usize = 32;
/// Upper bound, in bytes, on the value of a header.
const MAX_VALUE_BYTES: usize = 4 * 1024;

/// Headers of the connection and of message framing, which only proxies and servers may set.
const RESERVED: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Additions to the response to a denied request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDeny {
    /// Body; `None` for the caller's own.
    pub body: Option<DenialBody>,
    /// Headers to add: distinct names, ASCII values, at most [`MAX_HEADERS`].
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Body of a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DenialBody {
    /// Problem document (RFC 9457).
    Problem,
    /// Text of the rule.
    Text {
        /// Text.
        template: Template,
        /// Content type of the text.
        content_type: HeaderValue,
    },
}

/// Text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Box<[Piece]>);

/// Kind of text, which decides how names are escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// Names are not escaped.
    Plain,
    /// Names are escaped for JSON strings.
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Place(Placeholder),
}

/// Placeholder in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// Requests per window.
    Limit,
    /// Remaining requests.
    Remaining,
    /// Seconds to wait.
    Reset,
    /// Layer that denies; empty without a layer.
    Layer,
    /// Rule that denies.
    Rule,
}

/// Values of placeholders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenialFacts<'a> {
    /// Requests per window.
    pub limit: u32,
    /// Remaining requests.
    pub remaining: u32,
    /// Whole seconds until the request would pass, rounded up.
    pub reset_secs: u64,
    /// Layer that denies; empty without a layer.
    pub layer: &'a str,
    /// Rule that denies.
    pub rule: &'a str,
}

/// Error in a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Unknown placeholder.
    #[error("unknown placeholder '{{{0}}}': known are {known}; write '{{{{' and '}}}}' for braces", known = Placeholder::list())]
    Unknown(String),
    /// Opening brace without a closing one.
    #[error("a '{{' without its '}}': write '{{{{' for a brace")]
    Unclosed,
    /// Closing brace without an opening one.
    #[error("a '}}' without its '{{': write '}}}}' for a brace")]
    Unopened,
    /// Text longer than [`MAX_TEXT_BYTES`].
    #[error("text of more than {MAX_TEXT_BYTES} bytes")]
    TooLong,
}

/// Header that cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Invalid name.
    #[error("'{0}' is not a valid name of an HTTP header")]
    Name(String),
    /// Header of the connection.
    #[error("'{0}' belongs to the connection: only the server or proxy may set it")]
    Reserved(HeaderName),
    /// Content type, which belongs to the body.
    #[error("'content-type' belongs to the body: write 'body: {{text: …, content_type: …}}'")]
    ContentType,
    /// Invalid value.
    #[error("the value of '{0}' must be ASCII without line breaks, of at most {MAX_VALUE_BYTES} bytes")]
    Value(HeaderName),
}

impl Placeholder {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Limit, Self::Remaining, Self::Reset, Self::Layer, Self::Rule];

    /// Name between braces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Remaining => "remaining",
            Self::Reset => "reset",
            Self::Layer => "layer",
            Self::Rule => "rule",
        }
    }

    fn list() -> String {
        Self::ALL.map(|place| format!("{{{}}}", place.name())).join(", ")
    }
}

impl Template {
    /// Parses `text`: `{name}` is a [`Placeholder`], `{{` and `}}` are literal braces.
    ///
    /// # Errors
    /// [`TemplateError`]
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TemplateError::TooLong);
        }
        let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            let (before, after) = rest.split_at(at);
            literal.push_str(before);
            if let Some((brace, after)) = doubled(after) {
                literal.push(brace);
                rest = after;
                continue;
            }
            let inside = after.strip_prefix('{').ok_or(TemplateError::Unopened)?;
            let (name, after) = inside.split_once('}').ok_or(TemplateError::Unclosed)?;
            let place = Placeholder::ALL.into_iter().find(|place| place.name() == name);
            let place = place.ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            pieces.push(Piece::Place(place));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        Ok(Self(pieces.into()))
    }

    /// Text with `facts` in place of the placeholders.
    pub fn render(&self, facts: &DenialFacts<'_>, kind: TextKind) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            // Writing to a string does not fail.
            let written = match piece {
                Piece::Text(literal) => text.write_str(literal),
                Piece::Place(Placeholder::Limit) => write!(text, "{}", facts.limit),
                Piece::Place(Placeholder::Remaining) => write!(text, "{}", facts.remaining),
                Piece::Place(Placeholder::Reset) => write!(text, "{}", facts.reset_secs),
                Piece::Place(Placeholder::Layer) => text.write_str(&kind.escaped(facts.layer)),
                Piece::Place(Placeholder::Rule) => text.write_str(&kind.escaped(facts.rule)),
            };
            debug_assert!(written.is_ok(), "{piece:?}");
        }
        text
    }
}

impl TextKind {
    /// Kind of a `content_type`: `application/json` and types that end in `+json` are JSON.
    pub fn of(content_type: &HeaderValue) -> Self {
        let media_type = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        let media_type = media_type.trim_ascii().to_ascii_lowercase();
        match media_type == b"application/json" || media_type.ends_with(b"+json") {
            true => Self::Json,
            false => Self::Plain,
        }
    }

    fn escaped(self, name: &str) -> Cow<'_, str> {
        match self {
            Self::Plain => Cow::Borrowed(name),
            Self::Json => {
                let quoted = serde_json::Value::from(name).to_string();
                // The quotation marks are in the template.
                let inside = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                Cow::Owned(inside.unwrap_or_default().to_owned())
            }
        }
    }
}

impl fmt::Display for Template {
    /// Formats the template as written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(literal) => f.write_str(&literal.replace('{', "{{").replace('}', "}}")),
            Piece::Place(place) => write!(f, "{{{}}}", place.name()),
        })
    }
}

/// Doubled brace at the start of `text`, and the rest.
fn doubled(text: &str) -> Option<(char, &str)> {
    let after = |braces| text.strip_prefix(braces);
    after("{{").map(|rest| ('{', rest)).or_else(|| after("}}").map(|rest| ('}', rest)))
}

/// Header `name: value`, if rules may add it.
///
/// # Errors
/// [`HeaderError`]
pub fn parse_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), HeaderError> {
    let name: HeaderName = name.parse().map_err(|_| HeaderError::Name(name.to_owned()))?;
    if RESERVED.contains(&name.as_str()) {
        return Err(HeaderError::Reserved(name));
    }
    if name == http::header::CONTENT_TYPE {
        return Err(HeaderError::ContentType);
    }
    match parse_value(value) {
        Some(value) => Ok((name, value)),
        None => Err(HeaderError::Value(name)),
    }
}

/// `text` as the value of a header; `None` if it is not ASCII, has line breaks or is longer than 4 KiB.
pub fn parse_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok().filter(|_| text.is_ascii() && text.len() <= MAX_VALUE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: DenialFacts<'_> =
        DenialFacts { limit: 5, remaining: 0, reset_secs: 17, layer: "ip", rule: "shop.address" };

    #[test]
    fn places_are_filled_and_doubled_braces_are_braces() {
        for (text, expected) in [
            ("", ""),
            ("no places", "no places"),
            ("{limit}", "5"),
            ("Slow down: {limit}, {remaining} left, {reset} s", "Slow down: 5, 0 left, 17 s"),
            ("{layer}{rule}", "ipshop.address"),
            (r#"{{"wait": {reset}, "in": {{}}}}"#, r#"{"wait": 17, "in": {}}"#),
            ("{{{limit}}}", "{5}"),
            ("{{limit}}", "{limit}"),
            ("ü{limit}ü", "ü5ü"),
        ] {
            let template = Template::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(template.render(&FACTS, TextKind::Plain), expected, "{text}");
            assert_eq!(template.to_string(), text);
        }
    }

    #[test]
    fn names_stand_in_json_as_its_strings_have_them() {
        let facts = DenialFacts { layer: r#"a "b" \c"#, rule: "shop.path_/\u{1}\n\"ü", ..FACTS };
        let template = Template::parse(r#"{{"layer": "{layer}", "rule": "{rule}", "wait": {reset}}}"#);
        let template = template.expect("a template");
        for (content_type, is_json) in [
            ("application/json", true),
            ("Application/JSON ; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/plain", false),
            ("application/jsonish", false),
        ] {
            let kind = TextKind::of(&HeaderValue::from_static(content_type));
            let text = template.render(&facts, kind);
            let read: Result<serde_json::Value, _> = serde_json::from_str(&text);
            let expected = serde_json::json!({ "layer": facts.layer, "rule": facts.rule, "wait": 17 });
            assert_eq!(read.ok(), is_json.then_some(expected), "{content_type}: {text}");
            assert_eq!(text.contains(facts.rule), !is_json, "{content_type}: {text}");
        }
    }

    #[test]
    fn invalid_templates_are_rejected_with_a_suggestion() {
        for (text, expected) in [
            (
                "{user}",
                "unknown placeholder '{user}': known are {limit}, {remaining}, {reset}, {layer}, {rule}",
            ),
            ("{Limit}", "unknown placeholder '{Limit}'"),
            ("{ limit }", "unknown placeholder '{ limit }'"),
            ("{}", "unknown placeholder '{}'"),
            ("{limit", "a '{' without its '}'"),
            ("{", "a '{' without its '}'"),
            ("}", "a '}' without its '{'"),
            ("{limit}}", "a '}' without its '{'"),
        ] {
            let error = Template::parse(text).expect_err(text).to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        assert!(Template::parse(&"x".repeat(MAX_TEXT_BYTES)).is_ok());
        assert_eq!(Template::parse(&"x".repeat(MAX_TEXT_BYTES + 1)), Err(TemplateError::TooLong));
    }

    #[test]
    fn invalid_and_reserved_headers_are_rejected() {
        let (name, value) = parse_header("X-Help", "https://example.com/limits").expect("a header");
        assert_eq!((name.as_str(), value.to_str().expect("text")), ("x-help", "https://example.com/limits"));
        for name in RESERVED {
            assert!(matches!(parse_header(name, "x"), Err(HeaderError::Reserved(_))), "{name}");
        }
        for name in ["", ":status", "a b", "ü", "a:b"] {
            assert!(matches!(parse_header(name, "x"), Err(HeaderError::Name(_))), "{name}");
        }
        assert_eq!(parse_header("Content-Type", "text/html"), Err(HeaderError::ContentType));
        for value in ["a\nb", "a\rb", "\0", "ü", &"x".repeat(MAX_VALUE_BYTES + 1)] {
            assert!(matches!(parse_header("x-help", value), Err(HeaderError::Value(_))), "{value:?}");
        }
        assert!(parse_header("x-help", "").is_ok());
    }
}
