//! Mogrifiers: patterns that turn parts of a metric's name into tags of DogStatsD.

use regex_automata::meta::Regex;
use regex_automata::util::captures::Captures;

/// Pattern for names, and the name and tags that take the place of one that matches.
#[derive(Clone, Debug)]
pub struct Mogrifier {
    pattern: Regex,
    name: Template,
    tags: Vec<(String, Template)>,
}

/// Why a mogrifier cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MogrifierError {
    /// The pattern is not a regular expression.
    #[error("not a regular expression: {0}")]
    Pattern(String),
    /// A template names a group that the pattern does not have.
    #[error("${group} is not a group of the pattern, which has {groups}")]
    Group {
        /// The group that is named.
        group: usize,
        /// Number of groups.
        groups: usize,
    },
}

/// Text with `$0` to `$n` in the places of the pattern's groups.
#[derive(Clone, Debug)]
struct Template(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Group(usize),
}

impl Mogrifier {
    /// A mogrifier of names that match `pattern`. `name` and the values of `tags` may use its groups, `$0` to
    /// `$n`.
    ///
    /// # Errors
    /// [`MogrifierError`]
    pub fn new(pattern: &str, name: &str, tags: &[(String, String)]) -> Result<Self, MogrifierError> {
        let pattern = Regex::new(pattern).map_err(|error| {
            let cause = error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string);
            MogrifierError::Pattern(cause)
        })?;
        let groups = pattern.group_info().group_len(regex_automata::PatternID::ZERO) - 1;
        let name = Template::new(name, groups)?;
        let tags = tags.iter().map(|(tag, value)| Ok((tag.clone(), Template::new(value, groups)?)));
        let tags = tags.collect::<Result<_, _>>()?;
        Ok(Self { pattern, name, tags })
    }

    /// The new name and its tags, `tag:value`; None if `name` does not match.
    pub(super) fn apply(&self, name: &str) -> Option<(String, Vec<String>)> {
        let mut groups = self.pattern.create_captures();
        self.pattern.captures(name, &mut groups);
        groups.is_match().then(|| {
            let tags = self.tags.iter().map(|(tag, value)| format!("{tag}:{}", value.fill(name, &groups)));
            (self.name.fill(name, &groups), tags.collect())
        })
    }
}

impl Template {
    fn new(text: &str, groups: usize) -> Result<Self, MogrifierError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            let (number, after) = after.split_at(digits);
            parts.push(Part::Text(before.to_owned()));
            parts.push(match number.parse() {
                Ok(group) if group <= groups => Part::Group(group),
                Ok(group) => return Err(MogrifierError::Group { group, groups }),
                // A lone `$`.
                Err(_) => Part::Text(format!("${number}")),
            });
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    fn fill(&self, name: &str, groups: &Captures) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Group(group) => {
                groups.get_group(*group).and_then(|span| name.get(span.range())).unwrap_or_default()
            }
        });
        parts.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(value: &str) -> Vec<(String, String)> {
        vec![("tag".to_owned(), value.to_owned())]
    }

    #[test]
    fn groups_fill_name_and_tags() {
        let mogrifier = Mogrifier::new(r"^a\.(\w+)\.(x)?(\w+)$", "b.$3$$.$", &tag("$1-$2-$0")).unwrap();
        let filled = mogrifier.apply("a.one.two");
        assert_eq!(filled, Some(("b.two$$.$".to_owned(), vec!["tag:one--a.one.two".to_owned()])));
        assert_eq!(mogrifier.apply("b.one.two"), None);
    }

    #[test]
    fn patterns_that_never_match_are_errors() {
        let error = Mogrifier::new("(", "b", &[]).unwrap_err();
        assert!(error.to_string().starts_with("not a regular expression: "), "{error}");
        let error = Mogrifier::new("(a)", "b", &tag("$2")).unwrap_err();
        assert_eq!(error, MogrifierError::Group { group: 2, groups: 1 });
        assert_eq!(error.to_string(), "$2 is not a group of the pattern, which has 1");
    }
}
