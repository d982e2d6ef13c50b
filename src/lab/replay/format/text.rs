//! Lines after a format string of Envoy: literals and operators.

use memchr::{memchr, memrchr};

use super::fields::{FieldRef, Fields, in_line};
use super::operator::canonical;
use super::scan::{find, find_unescaped};

/// A format string, compiled.
#[derive(Clone, Debug)]
pub(in crate::lab::replay) struct TextFormat {
    /// Text before the first field.
    start: Box<[u8]>,
    /// Text after each field. Only the last one may be empty: then the field extends to the end of the line.
    ends: Vec<Box<[u8]>>,
    names: Vec<String>,
    /// True if a backslash escapes a quote inside quotes, as in Apache's logs.
    escapes: bool,
    /// Index of the method, if it and the two fields after it are the request line as the client sent it, which may be
    /// anything: web servers log `-` for a client that sent none.
    request_line: Option<usize>,
}

/// Fields of a request line.
const REQUEST_LINE: [&str; 3] = ["REQ(:METHOD)", "REQ(:PATH)", "PROTOCOL"];

impl TextFormat {
    /// Compiles `format`.
    ///
    /// # Errors
    /// The mistake in it.
    pub(super) fn parse(format: &str) -> Result<Self, String> {
        let mut literals = vec![String::new()];
        let mut names = Vec::new();
        // Envoy's own formats end with a line break.
        let mut rest = format.trim_end_matches("\\n").trim_end_matches(['\n', '\r']);
        while let Some(at) = rest.find('%') {
            let (literal, operator) = rest.split_at(at);
            let operator = &operator[1..];
            let last = literals.last_mut().ok_or("no literal")?;
            last.push_str(literal);
            if let Some(after) = operator.strip_prefix('%') {
                last.push('%');
                rest = after;
                continue;
            }
            let end = end_of_operator(operator).ok_or_else(|| {
                format!(
                    "the operator '%{}' has no '%' at its end",
                    operator.chars().take(40).collect::<String>()
                )
            })?;
            if !names.is_empty() && last.is_empty() {
                let name = &operator[..end];
                return Err(format!("there is no text before %{name}% that ends the field before it"));
            }
            names.push(canonical(&operator[..end]));
            literals.push(String::new());
            rest = &operator[end + 1..];
        }
        literals.last_mut().ok_or("no literal")?.push_str(rest);
        if names.is_empty() {
            return Err("the format has no operators".to_owned());
        }
        let mut literals = literals.into_iter().map(|text| Box::from(text.into_bytes()));
        let start = literals.next().unwrap_or_default();
        Ok(Self { start, ends: literals.collect(), names, escapes: false, request_line: None })
    }

    /// This format as web servers write it: a backslash escapes a quote, and the request line may be any text.
    pub(super) fn of_web_servers(self) -> Self {
        let request_line = self.names.windows(REQUEST_LINE.len()).position(|names| names == REQUEST_LINE);
        Self { escapes: true, request_line, ..self }
    }

    /// Operators, in the order of the line.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Splits `line`. `None` if it does not have this format.
    pub(super) fn split(&self, line: &[u8], fields: &mut Fields) -> Option<()> {
        let mut at = self.start.len();
        if !line.starts_with(&self.start) {
            return None;
        }
        let last = self.ends.len() - 1;
        let mut ends = self.ends.iter().enumerate();
        while let Some((index, end)) = ends.next() {
            let rest = line.get(at..)?;
            if self.request_line == Some(index) {
                let (_, end) = ends.nth(REQUEST_LINE.len() - 2)?;
                let length = find_unescaped(rest, end)?;
                push_request_line(rest.get(..length)?, at, fields);
                at += length + end.len();
                continue;
            }
            let length = match &**end {
                // The last literal ends the line, so that a quote inside the last field does no harm.
                end if index == last => rest.strip_suffix(end)?.len(),
                [b'"', ..] if self.escapes => find_unescaped(rest, end)?,
                end => find(rest, end)?,
            };
            fields.push(in_line(at, at + length));
            at += length + end.len();
        }
        Some(())
    }
}

/// Appends the method, the path and the protocol in `text`, which begins at `at` in its line; absent ones unless there
/// are all three.
fn push_request_line(text: &[u8], at: usize, fields: &mut Fields) {
    let parts = memchr(b' ', text).zip(memrchr(b' ', text));
    let complete = parts.filter(|(method, path)| {
        let protocol = text.get(path + 1..).unwrap_or_default();
        *method > 0 && method + 1 < *path && protocol.starts_with(b"HTTP/")
    });
    match complete {
        Some((method, path)) => {
            fields.push(in_line(at, at + method));
            fields.push(in_line(at + method + 1, at + path));
            fields.push(in_line(at + path + 1, at + text.len()));
        }
        None => REQUEST_LINE.iter().for_each(|_| fields.push(FieldRef::Absent)),
    }
}

/// Length of an operator: up to the next `%` outside of parentheses, which a format of time contains.
fn end_of_operator(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'%' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split<'l>(format: &TextFormat, line: &'l str) -> Option<Vec<Option<&'l str>>> {
        let mut fields = Fields::default();
        format.split(line.as_bytes(), &mut fields)?;
        let text = |index| {
            let text = fields.get(line.as_bytes(), index)?;
            // The same bytes, borrowed from the line.
            let start = text.as_ptr() as usize - line.as_ptr() as usize;
            line.get(start..start + text.len())
        };
        Some((0..format.names().len()).map(text).collect())
    }

    #[test]
    fn the_default_format_of_envoy_parses_its_own_line() {
        let format = TextFormat::parse(super::super::ENVOY_DEFAULT).expect("a format");
        let line = "[2026-11-16T12:34:56.789Z] \"GET /a?b=\"c\" HTTP/1.1\" 200 - 0 25 3 - \"-\" \"say \"hi\"\" \
                    \"5f\" \"127.0.0.1:1\" \"-\"";
        let fields = split(&format, line).expect("it fits");
        assert_eq!(
            fields[..5],
            [
                Some("2026-11-16T12:34:56.789Z"),
                Some("GET"),
                Some("/a?b=\"c\""),
                Some("HTTP/1.1"),
                Some("200")
            ]
        );
        assert_eq!((fields[5], fields[11]), (None, Some("say \"hi\"")));
        assert!(split(&format, &line[..60]).is_none() && split(&format, "").is_none());
    }

    #[test]
    fn combined_logs_escape_quotes() {
        let text = format!("{}{}", super::super::COMMON, super::super::COMBINED_REST);
        let format = TextFormat::parse(&text).expect("a format").of_web_servers();
        let line = r#"10.0.0.1 - ann [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 2326 "-" "a \" b""#;
        let fields = split(&format, line).expect("it fits");
        assert_eq!((fields[2], fields[3]), (Some("ann"), Some("10/Oct/2000:13:55:36 -0700")));
        assert_eq!(fields[10], Some(r#"a \" b"#));
        assert_eq!(fields[4..8], [Some("GET"), Some("/"), Some("HTTP/1.0"), Some("200")]);
    }

    #[test]
    fn lines_of_web_servers_need_no_complete_request_line() {
        let format = TextFormat::parse(super::super::COMMON).expect("a format").of_web_servers();
        for (request, expected) in [
            ("GET /a?b=c HTTP/1.1", [Some("GET"), Some("/a?b=c"), Some("HTTP/1.1")]),
            ("GET /a b HTTP/1.1", [Some("GET"), Some("/a b"), Some("HTTP/1.1")]),
            (r#"GET /\" x HTTP/1.1"#, [Some("GET"), Some(r#"/\" x"#), Some("HTTP/1.1")]),
            ("-", [None; 3]),
            ("", [None; 3]),
            ("GET /", [None; 3]),
            ("GET  HTTP/1.1", [None; 3]),
            (" / HTTP/1.1", [None; 3]),
            (r"\x16\x03\x01 a b", [None; 3]),
        ] {
            let line = format!(r#"10.0.0.1 - ann [10/Oct/2000:13:55:36 -0700] "{request}" 408 0"#);
            let fields = split(&format, &line).expect("it fits");
            assert_eq!((&fields[4..7], fields[7]), (&expected[..], Some("408")), "{request}");
        }
        assert!(split(&format, r#"10.0.0.1 - ann [10/Oct/2000:13:55:36 -0700] "GET / 408 0"#).is_none());
    }

    #[test]
    fn formats_that_cannot_be_split_are_errors() {
        for (format, expected) in [
            ("%A%%B%", "no text before %B%"),
            ("plain", "no operators"),
            ("%REQ(:PATH)", "has no '%' at its end"),
            ("%START_TIME(%s%f)", "has no '%' at its end"),
        ] {
            let error = TextFormat::parse(format).expect_err(format);
            assert!(error.contains(expected), "{error}");
        }
        let format = TextFormat::parse("100%% %START_TIME(%Y %s)% x\n").expect("a format");
        assert_eq!(format.names(), ["START_TIME(%Y %s)"]);
        assert_eq!(split(&format, "100% 2026 1 x"), Some(vec![Some("2026 1")]));
    }
}
