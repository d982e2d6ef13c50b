//! Texts of requests that count: `u{n}` is `u1`, `u2` and so on, `u{n%10}` runs through ten values.

/// A text with places for the number of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Number,
    /// The remainder by so many, at least 1.
    Remainder(u32),
}

impl Template {
    /// Every text is one: braces around anything else stay as they are.
    pub(super) fn new(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (before, place) = rest.split_at(open);
            literal.push_str(before);
            let found =
                place.find('}').and_then(|close| Some((parse(&place[1..close])?, &place[close + 1..])));
            match found {
                Some((part, after)) => {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                    parts.push(part);
                    rest = after;
                }
                None => {
                    literal.push('{');
                    rest = &place[1..];
                }
            }
        }
        literal.push_str(rest);
        parts.push(Part::Text(literal));
        Self(parts)
    }

    /// True if the text differs between requests.
    pub(super) fn counts(&self) -> bool {
        self.0.iter().any(|part| !matches!(part, Part::Text(_)))
    }

    /// The text of request `number`, which counts from 1.
    pub(super) fn render(&self, number: u32) -> String {
        self.0.iter().fold(String::new(), |text, part| match part {
            Part::Text(literal) => text + literal,
            Part::Number => text + &number.to_string(),
            Part::Remainder(by) => text + &(number % by).to_string(),
        })
    }

    /// The text as written.
    pub(super) fn written(&self) -> String {
        self.0.iter().fold(String::new(), |text, part| match part {
            Part::Text(literal) => text + literal,
            Part::Number => text + "{n}",
            Part::Remainder(by) => text + &format!("{{n%{by}}}"),
        })
    }
}

fn parse(place: &str) -> Option<Part> {
    if place == "n" {
        return Some(Part::Number);
    }
    let by = place.strip_prefix("n%")?.parse().ok().filter(|by| *by > 0)?;
    Some(Part::Remainder(by))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_and_other_braces_stay() {
        for (text, first, twelfth) in [
            ("u{n}", "u1", "u12"),
            ("u{n%10}-{n}", "u1-1", "u2-12"),
            ("/items/{id}", "/items/{id}", "/items/{id}"),
            ("{n%0}{{n}}{", "{n%0}{1}{", "{n%0}{12}{"),
            ("", "", ""),
        ] {
            let template = Template::new(text);
            assert_eq!([template.render(1), template.render(12)], [first, twelfth], "{text}");
            assert_eq!(template.counts(), first != twelfth, "{text}");
            assert_eq!(template.written(), text);
        }
    }
}
