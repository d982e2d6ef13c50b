//! Values made of fields: `%REQ(:PATH)% | before(?)`.

use std::net::IpAddr;

use memchr::{memchr, memmem};
use percent_encoding::percent_decode;

use super::Line;
use crate::lab::replay::format::{Format, Source, canonical};

/// A value.
#[derive(Clone, Debug, Default)]
pub(in crate::lab::replay) struct Expression {
    pieces: Vec<Piece>,
    filters: Vec<Filter>,
    /// Value where a field is absent.
    default: Option<Box<[u8]>>,
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(Box<[u8]>),
    Field(Source),
}

/// Change of a value.
#[derive(Clone, Debug)]
pub(in crate::lab::replay) enum Filter {
    /// Keeps the text before the first occurrence.
    Before(Box<[u8]>),
    /// Keeps the text after the first occurrence; nothing if there is none.
    After(Box<[u8]>),
    /// Lower case, ASCII.
    Lower,
    /// Without spaces around it.
    Trim,
    /// The value of a parameter of the query string, decoded as Envoy does.
    QueryParameter(Box<[u8]>),
    /// The network of an address, with so many bits in IPv4 and IPv6.
    Network(u8, u8),
}

impl Expression {
    /// Reads `text`. A name that the format has no field for is added to `missing`, and its value is absent.
    ///
    /// # Errors
    /// The mistake in it.
    pub(in crate::lab::replay) fn parse(
        text: &str,
        format: &mut Format,
        missing: &mut Vec<String>,
    ) -> Result<Self, String> {
        let (template, filters) = split_filters(text);
        let mut expression = Self::default();
        let mut parts = template.split('%');
        let mut is_field = false;
        let mut literal = String::new();
        while let Some(part) = parts.next() {
            match (is_field, part) {
                (false, part) => literal.push_str(part),
                (true, "") => literal.push('%'),
                (true, part) => {
                    expression.push_literal(&mut literal);
                    let mut name = part.to_owned();
                    // The argument of an operator may contain `%`.
                    while name.matches('(').count() > name.matches(')').count() {
                        let more = parts.next().ok_or_else(|| format!("'%{name}' has no '%' at its end"))?;
                        name = format!("{name}%{more}");
                    }
                    let source = format.source(&name);
                    if source.is_none() {
                        missing.push(canonical(&name));
                    }
                    // No line has this many fields.
                    let absent = Source { index: usize::MAX, without_port: false };
                    expression.pieces.push(Piece::Field(source.unwrap_or(absent)));
                }
            }
            is_field = !is_field;
        }
        if !is_field {
            return Err(format!("'{text}' has a '%' without its other one; write %% for a percent sign"));
        }
        expression.push_literal(&mut literal);
        filters.into_iter().try_for_each(|filter| expression.push_filter(filter))?;
        Ok(expression)
    }

    /// The field itself.
    pub(in crate::lab::replay) fn of_source(source: Source) -> Self {
        Self { pieces: vec![Piece::Field(source)], ..Self::default() }
    }

    /// The value `text` for every line.
    pub(in crate::lab::replay) fn literal(text: &str) -> Self {
        Self { pieces: vec![Piece::Literal(text.as_bytes().into())], ..Self::default() }
    }

    /// With another filter behind the others.
    pub(in crate::lab::replay) fn with(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
        self
    }

    /// With a value for lines where it is absent.
    pub(in crate::lab::replay) fn or(self, default: Option<&str>) -> Self {
        Self { default: default.map(|text| text.as_bytes().into()), ..self }
    }

    fn push_literal(&mut self, literal: &mut String) {
        if !literal.is_empty() {
            self.pieces.push(Piece::Literal(std::mem::take(literal).into_bytes().into()));
        }
    }

    fn push_filter(&mut self, text: &str) -> Result<(), String> {
        let (name, argument) = match text.split_once('(') {
            None => (text, None),
            Some((name, rest)) => {
                (name, Some(rest.strip_suffix(')').ok_or_else(|| format!("'{text}' has no ')' at its end"))?))
            }
        };
        let argument_bytes = argument.map(|text| Box::from(text.as_bytes()));
        match (name, argument_bytes) {
            ("before", Some(text)) => self.filters.push(Filter::Before(text)),
            ("after", Some(text)) => self.filters.push(Filter::After(text)),
            ("query", Some(text)) => self.filters.push(Filter::QueryParameter(text)),
            ("lower", None) => self.filters.push(Filter::Lower),
            ("trim", None) => self.filters.push(Filter::Trim),
            ("default", Some(text)) => self.default = Some(text),
            ("network", Some(_)) => {
                let bits = argument
                    .unwrap_or_default()
                    .split_once(',')
                    .unwrap_or((argument.unwrap_or_default(), "128"));
                let bits = bits.0.trim().parse().ok().filter(|v4| *v4 <= 32).zip(bits.1.trim().parse().ok());
                let (v4, v6) = bits.filter(|(_, v6)| *v6 <= 128).ok_or_else(|| {
                    format!("'{text}' is not a network: write network(24,64) for bits of IPv4 and IPv6")
                })?;
                self.filters.push(Filter::Network(v4, v6));
            }
            _ => {
                return Err(format!(
                    "unknown filter '{text}': write before(TEXT), after(TEXT), query(NAME), network(V4,V6), lower, trim \
                     or default(TEXT)"
                ));
            }
        }
        Ok(())
    }

    /// Appends the value to `to`. False if it is absent; `to` may then have part of it.
    pub(in crate::lab::replay) fn append(&self, line: Line<'_>, to: &mut Vec<u8>) -> bool {
        let start = to.len();
        if self.append_filtered(line, to) {
            return true;
        }
        to.truncate(start);
        match &self.default {
            Some(default) => to.extend_from_slice(default),
            None => return false,
        }
        true
    }

    fn append_filtered(&self, line: Line<'_>, to: &mut Vec<u8>) -> bool {
        let start = to.len();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => to.extend_from_slice(text),
                Piece::Field(source) => match value(*source, line) {
                    Some(text) => to.extend_from_slice(text),
                    None => return false,
                },
            }
        }
        self.filters.iter().all(|filter| filter.apply(to, start))
    }

    /// The value, in `scratch` unless it is a field as it is.
    pub(in crate::lab::replay) fn text<'t>(
        &self,
        line: Line<'t>,
        scratch: &'t mut Vec<u8>,
    ) -> Option<&'t [u8]> {
        if let ([Piece::Field(source)], [], None) = (&*self.pieces, &*self.filters, &self.default) {
            return value(*source, line);
        }
        scratch.clear();
        self.append(line, scratch).then_some(&**scratch)
    }
}

/// The template and the filters behind it. A pipe inside an operator starts no filter.
fn split_filters(text: &str) -> (&str, Vec<&str>) {
    let mut parts = text.split(" | ");
    let template = parts.next().unwrap_or_default();
    if template.matches('%').count() % 2 == 1 {
        return (text, Vec::new());
    }
    (template, parts.map(str::trim).collect())
}

fn value<'l>(source: Source, Line { text, fields }: Line<'l>) -> Option<&'l [u8]> {
    let value = fields.get(text, source.index)?;
    Some(if source.without_port { without_port(value) } else { value })
}

/// `10.0.0.1:80` is `10.0.0.1`, and `[::1]:80` is `::1`.
fn without_port(address: &[u8]) -> &[u8] {
    if let Some(rest) = address.strip_prefix(b"[") {
        return memchr(b']', rest).and_then(|end| rest.get(..end)).unwrap_or(address);
    }
    match memchr(b':', address) {
        Some(at) if memchr(b':', &address[at + 1..]).is_none() => &address[..at],
        _ => address,
    }
}

impl Filter {
    /// Changes the text in `to` from `start` on. False if nothing is left to be a value.
    fn apply(&self, to: &mut Vec<u8>, start: usize) -> bool {
        let text = &mut to[start..];
        match self {
            Self::Before(needle) => {
                if let Some(at) = memmem::find(text, needle) {
                    to.truncate(start + at);
                }
            }
            Self::After(needle) => match memmem::find(text, needle) {
                Some(at) => drop(to.drain(start..start + at + needle.len())),
                None => return false,
            },
            Self::Lower => text.make_ascii_lowercase(),
            Self::Trim => {
                let kept = text.trim_ascii().to_vec();
                to.truncate(start);
                to.extend_from_slice(&kept);
            }
            Self::QueryParameter(name) => match query_parameter(text, name) {
                Some(value) => {
                    let value: Vec<u8> = percent_decode(value).collect();
                    to.truncate(start);
                    to.extend_from_slice(&value);
                }
                None => return false,
            },
            Self::Network(v4, v6) => match network(text, *v4, *v6) {
                Some(network) => {
                    to.truncate(start);
                    to.extend_from_slice(network.as_bytes());
                }
                None => return false,
            },
        }
        to.len() > start
    }
}

/// The first value of a parameter in the query string of a path, encoded as it stands there.
fn query_parameter<'p>(path: &'p [u8], name: &[u8]) -> Option<&'p [u8]> {
    let query = path.get(memchr(b'?', path)? + 1..)?;
    let query = query.split(|byte| *byte == b'#').next()?;
    query.split(|byte| *byte == b'&').find_map(|pair| match memchr(b'=', pair) {
        Some(at) => (&pair[..at] == name).then(|| &pair[at + 1..]),
        None => (pair == name).then_some(&[][..]),
    })
}

/// The network of an address, as Envoy writes it: `10.1.0.0/16`.
fn network(address: &[u8], v4: u8, v6: u8) -> Option<String> {
    let address: IpAddr = std::str::from_utf8(address).ok()?.parse().ok()?;
    let bits = if address.is_ipv4() { v4 } else { v6 };
    Some(ipnet::IpNet::new(address, bits).ok()?.trunc().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::replay::format::Fields;

    fn value_of(expression: &str, line: &str) -> Option<String> {
        let mut format =
            Format::parse("%REQ(X-USER)% %REQ(:PATH)% %DOWNSTREAM_REMOTE_ADDRESS%").expect("a format");
        let expression = Expression::parse(expression, &mut format, &mut Vec::new()).expect("an expression");
        let mut fields = Fields::default();
        format.split(line.as_bytes(), &mut fields).expect("it fits");
        let line = Line { text: line.as_bytes(), fields: &fields };
        let text =
            expression.text(line, &mut Vec::new()).map(|text| String::from_utf8_lossy(text).into_owned());
        let mut appended = b"x".to_vec();
        let is_present = expression.append(line, &mut appended);
        assert_eq!(is_present.then(|| String::from_utf8_lossy(&appended[1..]).into_owned()), text);
        text
    }

    #[test]
    fn values_are_made_of_fields_and_filters() {
        let line = "Ann /a/b?c=1&d=x%2fy [2001:db8::1]:80";
        for (expression, expected) in [
            ("%REQ(x-user)%", Some("Ann")),
            ("u:%REQ(X-USER)%:%path%", Some("u:Ann:/a/b?c=1&d=x%2fy")),
            ("%REQ(X-USER)% | lower", Some("ann")),
            ("%REQ(:PATH)% | before(?) | after(/a)", Some("/b")),
            ("%REQ(:PATH)% | after(#)", None),
            ("%REQ(:PATH)% | query(d)", Some("x/y")),
            ("%REQ(:PATH)% | query(e)", None),
            ("%REQ(:PATH)% | query(e) | default(none)", Some("none")),
            ("%DOWNSTREAM_REMOTE_ADDRESS%", Some("[2001:db8::1]:80")),
            ("%remote_address%", Some("2001:db8::1")),
            ("%remote_address% | network(24,32)", Some("2001:db8::/32")),
            ("always", Some("always")),
            ("100%%", Some("100%")),
            ("%REQ(X-OTHER)%", None),
        ] {
            assert_eq!(value_of(expression, line).as_deref(), expected, "{expression}");
        }
        assert_eq!(value_of("%REQ(X-USER)%", "- / 10.0.0.1:1"), None);
        assert_eq!(
            value_of("%remote_address% | network(8)", "- / 10.1.2.3:1").as_deref(),
            Some("10.0.0.0/8")
        );
    }

    #[test]
    fn mistakes_are_errors_and_names_without_a_field_are_listed() {
        let mut format = Format::parse("%REQ(X-USER)%").expect("a format");
        let mut missing = Vec::new();
        for (text, expected) in [
            ("%REQ(X-USER)", "without its other one"),
            ("%REQ(X-USER)% | upper", "unknown filter 'upper'"),
            ("%REQ(X-USER)% | before(?", "no ')'"),
            ("%REQ(X-USER)% | network(33)", "is not a network"),
        ] {
            let error = Expression::parse(text, &mut format, &mut missing).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
        Expression::parse("%START_TIME(%s)% %REQ(X-USER)%", &mut format, &mut missing)
            .expect("an expression");
        assert_eq!(missing, ["START_TIME(%s)"]);
    }
}
