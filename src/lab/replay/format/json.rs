//! Lines of JSON. The scanner copies nothing but texts with escapes, and looks only at the fields that are wanted.

use memchr::memchr2;

use super::Source;
use super::fields::{Fields, in_line};
use super::operator::{canonical, find};

/// JSON objects, and the fields of them that are wanted.
#[derive(Clone, Debug, Default)]
pub(in crate::lab::replay) struct JsonFormat {
    /// Operators of Envoy's `json_format`, and the paths of their fields.
    operators: Vec<String>,
    paths: Vec<Vec<String>>,
    /// True if fields are wanted by their own names.
    pub(super) is_by_name: bool,
    /// Operators, or names, of the wanted fields.
    wanted: Vec<String>,
    root: Vec<Node>,
}

/// Key of an object that is wanted, or inside of which something is.
#[derive(Clone, Debug)]
struct Node {
    key: Box<[u8]>,
    index: Option<usize>,
    inside: Vec<Self>,
}

impl JsonFormat {
    /// Fields by their names; dots separate the names of nested objects.
    pub(super) fn by_name() -> Self {
        Self { is_by_name: true, ..Self::default() }
    }

    /// Fields by the operators that Envoy writes into them. A field of several operators has no name.
    pub(super) fn of_operators(fields: &[(Vec<String>, String)]) -> Self {
        let mut format = Self::default();
        for (path, written) in fields {
            let operator = written.strip_prefix('%').and_then(|rest| rest.strip_suffix('%'));
            if let Some(operator) = operator.filter(|operator| !operator.contains("% ")) {
                format.operators.push(canonical(operator));
                format.paths.push(path.clone());
            }
        }
        format
    }

    /// The field that has `name`.
    pub(super) fn source(&mut self, name: &str) -> Option<Source> {
        if self.is_by_name {
            let path = name.split('.').map(str::to_owned).collect::<Vec<_>>();
            let index = self.want(name, &path);
            if path.len() > 1 {
                // A key may itself contain dots.
                add(&mut self.root, &[name.to_owned()], index);
            }
            return Some(Source { index, without_port: false });
        }
        let Source { index, without_port } = find(&self.operators, name)?;
        let (operator, path) = (self.operators.get(index)?.clone(), self.paths.get(index)?.clone());
        Some(Source { index: self.want(&operator, &path), without_port })
    }

    /// Operator of a wanted field.
    pub(super) fn operator(&self, index: usize) -> Option<&str> {
        self.wanted.get(index).map(String::as_str)
    }

    fn want(&mut self, name: &str, path: &[String]) -> usize {
        if let Some(index) = self.wanted.iter().position(|wanted| wanted == name) {
            return index;
        }
        let index = self.wanted.len();
        self.wanted.push(name.to_owned());
        add(&mut self.root, path, index);
        index
    }

    /// Reads the wanted fields of `line`. `None` if it is not a JSON object.
    pub(super) fn split(&self, line: &[u8], fields: &mut Fields) -> Option<()> {
        fields.resize(self.wanted.len());
        let mut scanner = Scanner { line, at: 0 };
        scanner.expect(b'{')?;
        scanner.object(&self.root, fields)?;
        scanner.skip_space();
        (scanner.at == line.len()).then_some(())
    }
}

fn add(nodes: &mut Vec<Node>, path: &[String], index: usize) {
    let Some((first, rest)) = path.split_first() else { return };
    let key = first.as_bytes();
    let position = nodes.iter().position(|node| *node.key == *key).unwrap_or_else(|| {
        nodes.push(Node { key: key.into(), index: None, inside: Vec::new() });
        nodes.len() - 1
    });
    let Some(node) = nodes.get_mut(position) else { return };
    if rest.is_empty() {
        node.index = Some(index);
    } else {
        add(&mut node.inside, rest, index);
    }
}

struct Scanner<'l> {
    line: &'l [u8],
    at: usize,
}

/// Range of a text between its quotes.
struct Text {
    start: usize,
    end: usize,
    has_escapes: bool,
}

impl Scanner<'_> {
    fn skip_space(&mut self) {
        while self.line.get(self.at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn next(&mut self) -> Option<u8> {
        self.skip_space();
        let byte = *self.line.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// An object after its opening brace. Recurses only as deep as wanted fields are.
    fn object(&mut self, wanted: &[Node], fields: &mut Fields) -> Option<()> {
        let mut byte = self.next()?;
        if byte == b'}' {
            return Some(());
        }
        loop {
            if byte != b'"' {
                return None;
            }
            let key = self.text()?;
            self.expect(b':')?;
            let node = wanted.iter().find(|node| *node.key == self.line[key.start..key.end]);
            match node {
                Some(node) => self.wanted(node, fields)?,
                None => self.skip_value()?,
            }
            match self.next()? {
                b',' => byte = self.next()?,
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn wanted(&mut self, node: &Node, fields: &mut Fields) -> Option<()> {
        self.skip_space();
        match *self.line.get(self.at)? {
            b'{' if !node.inside.is_empty() => {
                self.at += 1;
                self.object(&node.inside, fields)
            }
            b'{' | b'[' => self.skip_value(),
            b'"' => {
                self.at += 1;
                let text = self.text()?;
                let Some(index) = node.index else { return Some(()) };
                let field = if text.has_escapes {
                    let raw = self.line.get(text.start..text.end)?;
                    fields.unescaped(|to| unescape(raw, to))?
                } else {
                    in_line(text.start, text.end)
                };
                fields.set(index, field);
                Some(())
            }
            _ => {
                let start = self.at;
                self.skip_value()?;
                if let Some(index) = node.index.filter(|_| &self.line[start..self.at] != b"null") {
                    fields.set(index, in_line(start, self.at));
                }
                Some(())
            }
        }
    }

    /// A text after its opening quote.
    fn text(&mut self) -> Option<Text> {
        let start = self.at;
        let mut has_escapes = false;
        loop {
            let at = self.at + memchr2(b'"', b'\\', self.line.get(self.at..)?)?;
            if self.line[at] == b'"' {
                self.at = at + 1;
                return Some(Text { start, end: at, has_escapes });
            }
            has_escapes = true;
            self.at = at + 2;
        }
    }

    fn skip_value(&mut self) -> Option<()> {
        match self.next()? {
            b'"' => self.text().map(drop),
            b'{' | b'[' => {
                let mut depth = 1_usize;
                while depth > 0 {
                    match self.next()? {
                        b'"' => {
                            self.text()?;
                        }
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                }
                Some(())
            }
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-');
                while self.line.get(self.at).is_some_and(is_plain) {
                    self.at += 1;
                }
                Some(())
            }
            _ => None,
        }
    }
}

/// Appends the text that `raw` stands for.
fn unescape(raw: &[u8], to: &mut Vec<u8>) -> Option<()> {
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            to.push(byte);
            continue;
        }
        match bytes.next()? {
            b'b' => to.push(8),
            b'f' => to.push(12),
            b'n' => to.push(b'\n'),
            b'r' => to.push(b'\r'),
            b't' => to.push(b'\t'),
            b'u' => {
                let mut unit = hex(&mut bytes)?;
                if (0xd800..0xdc00).contains(&unit) {
                    let mut low = bytes.clone();
                    let second = (low.next() == Some(b'\\') && low.next() == Some(b'u'))
                        .then(|| hex(&mut low))
                        .flatten()
                        .filter(|second| (0xdc00..0xe000).contains(second));
                    if let Some(second) = second {
                        bytes = low;
                        unit = 0x10000 + ((unit - 0xd800) << 10) + (second - 0xdc00);
                    }
                }
                let c = char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER);
                to.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            other => to.push(other),
        }
    }
    Some(())
}

fn hex(bytes: &mut impl Iterator<Item = u8>) -> Option<u32> {
    (0..4).try_fold(0, |value, _| Some(value << 4 | char::from(bytes.next()?).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: &JsonFormat, line: &str) -> Option<Vec<Option<String>>> {
        let mut fields = Fields::default();
        format.split(line.as_bytes(), &mut fields)?;
        let text =
            |index| fields.get(line.as_bytes(), index).map(|text| String::from_utf8_lossy(text).into_owned());
        Some((0..format.wanted.len()).map(text).collect())
    }

    #[test]
    fn fields_are_found_by_name_and_by_path() {
        let mut format = JsonFormat::by_name();
        for name in ["user", "a.b", "status", "x.y"] {
            format.source(name).expect("any name will do");
        }
        let line = r#"{"skip":{"user":[1,{"user":"no"}]},"user":"a\u00e9\ud83d\ude00\"\\","a":{"b":1.5},"status":429,
            "x.y":"dots"}"#;
        let expected = ["aé😀\"\\", "1.5", "429", "dots"].map(|text| Some(text.to_owned()));
        assert_eq!(read(&format, line).expect("JSON"), expected);
        assert_eq!(read(&format, "{}"), Some(vec![None; 4]));
        let absent = r#"{"user":null,"a":7,"status":"-","x":{"y":[1]}}"#;
        assert_eq!(read(&format, absent), Some(vec![None; 4]));
    }

    #[test]
    fn a_line_that_is_not_an_object_is_bad() {
        let mut format = JsonFormat::by_name();
        format.source("user").expect("any name will do");
        for line in
            ["", "[]", "{", r#"{"user"}"#, r#"{"user":"a"#, r#"{"user":"\"#, r#"{"user":1} x"#, r#"{"a":[}"#]
        {
            assert_eq!(read(&format, line), None, "{line}");
        }
        let lone = read(&format, r#"{"user":"\ud800"}"#).expect("JSON");
        assert_eq!(lone, [Some("\u{fffd}".to_owned())]);
        let deep = format!("{{\"a\":{}", "[".repeat(1 << 20));
        assert_eq!(read(&format, &deep), None);
    }

    #[test]
    fn fields_are_found_by_the_operator_in_them() {
        let field = |path: &[&str], written: &str| {
            (path.iter().map(|&part| part.to_owned()).collect::<Vec<_>>(), written.to_owned())
        };
        let mut format = JsonFormat::of_operators(&[
            field(&["who"], "%REQ(X-USER)%"),
            field(&["client", "address"], "%DOWNSTREAM_REMOTE_ADDRESS%"),
            field(&["line"], "%REQ(:METHOD)% %REQ(:PATH)%"),
        ]);
        let found = format.source("REQ(X-USER)").expect("it is there");
        assert_eq!(found, Source { index: 0, without_port: false });
        let address = format.source("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT").expect("it is there");
        assert_eq!(address, Source { index: 1, without_port: true });
        assert_eq!(format.source("REQ(:METHOD)"), None);
        let line = r#"{"client":{"address":"10.0.0.1:5"},"who":"ann"}"#;
        assert_eq!(
            read(&format, line).expect("JSON"),
            ["ann", "10.0.0.1:5"].map(|text| Some(text.to_owned()))
        );
    }
}
