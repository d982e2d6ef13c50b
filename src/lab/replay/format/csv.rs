//! Comma-separated values, after RFC 4180: a field may be quoted, and a quote inside it is doubled. A field does not
//! contain a line break.

use memchr::memchr;

use super::fields::{Fields, in_line};

/// Columns of a file.
#[derive(Clone, Debug, Default)]
pub(in crate::lab::replay) struct CsvFormat {
    names: Vec<String>,
    has_header: bool,
}

impl CsvFormat {
    /// Files whose first line names the columns.
    pub(super) fn with_header() -> Self {
        Self { names: Vec::new(), has_header: true }
    }

    /// Files without such a line.
    pub(super) fn of_columns(names: &[String]) -> Self {
        Self { names: names.to_vec(), has_header: false }
    }

    /// True if every file begins with the names of its columns.
    pub(super) fn has_header(&self) -> bool {
        self.has_header
    }

    /// Takes the names from the first line.
    pub(super) fn set_header(&mut self, line: &[u8]) {
        let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        let mut fields = Fields::default();
        self.names.clear();
        if split_all(line, &mut fields).is_some() {
            let count = fields.len();
            let name = |index| {
                String::from_utf8_lossy(fields.get(line, index).unwrap_or_default()).trim().to_owned()
            };
            self.names = (0..count).map(name).collect();
        }
    }

    /// Names of the columns.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Splits `line`. `None` if it has another number of fields, or a quote is not closed.
    pub(super) fn split(&self, line: &[u8], fields: &mut Fields) -> Option<()> {
        split_all(line, fields)?;
        (fields.len() == self.names.len()).then_some(())
    }
}

fn split_all(line: &[u8], fields: &mut Fields) -> Option<()> {
    let mut at = 0;
    loop {
        let rest = line.get(at..)?;
        if rest.first() == Some(&b'"') {
            let (length, has_quotes) = quoted(&rest[1..])?;
            let text = &rest[1..=length];
            let field = if has_quotes {
                fields.unescaped(|to| {
                    let mut parts = text.split(|byte| *byte == b'"');
                    to.extend_from_slice(parts.next()?);
                    // Two quotes have an empty part between them.
                    while let (Some(_), Some(part)) = (parts.next(), parts.next()) {
                        to.push(b'"');
                        to.extend_from_slice(part);
                    }
                    Some(())
                })?
            } else {
                in_line(at + 1, at + 1 + length)
            };
            fields.push(field);
            at += length + 2;
        } else {
            let length = memchr(b',', rest).unwrap_or(rest.len());
            fields.push(in_line(at, at + length));
            at += length;
        }
        match line.get(at) {
            None => return Some(()),
            Some(b',') => at += 1,
            Some(_) => return None,
        }
    }
}

/// Length of a text after its opening quote, and whether there are quotes inside it.
fn quoted(text: &[u8]) -> Option<(usize, bool)> {
    let (mut at, mut has_quotes) = (0, false);
    loop {
        at += memchr(b'"', text.get(at..)?)?;
        if text.get(at + 1) != Some(&b'"') {
            return Some((at, has_quotes));
        }
        (at, has_quotes) = (at + 2, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_may_contain_commas_and_quotes() {
        let mut format = CsvFormat::with_header();
        format.set_header("\u{feff}time,\"user\",path".as_bytes());
        assert_eq!(format.names(), ["time", "user", "path"]);
        for (line, expected) in [
            (&br#"1,"a,b",/"#[..], Some(["1", "a,b", "/"])),
            (br#"1,"say ""hi"" ""","""""#, Some(["1", "say \"hi\" \"", "\""])),
            (br"1,,", Some(["1", "", ""])),
            (br"1,2", None),
            (br"1,2,3,4", None),
            (br#"1,"2,3"#, None),
            (br#"1,"2"x,3"#, None),
        ] {
            let mut fields = Fields::default();
            let found = format.split(line, &mut fields).map(|()| {
                [0, 1, 2].map(|index| {
                    String::from_utf8_lossy(fields.get(line, index).unwrap_or_default()).into_owned()
                })
            });
            assert_eq!(
                found,
                expected.map(|texts| texts.map(str::to_owned)),
                "{}",
                String::from_utf8_lossy(line)
            );
        }
    }
}
