//! What is told on denial, as written.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::Parser;
use crate::engine::rules::on_deny::{DenialBody, MAX_HEADERS, OnDeny, Template, parse_header, parse_value};
use crate::engine::rules::yaml::{self, Raw, Yaml};

pub(super) const ON_DENY_FIELDS: &[&str] = &["body", "headers"];
pub(super) const BODY_FIELDS: &[&str] = &["text", "content_type"];

/// What a text is where the rule does not say it.
const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

impl Parser<'_> {
    pub(super) fn on_deny(&mut self, yaml: &Yaml) -> Option<Arc<OnDeny>> {
        let mut on_deny = OnDeny::default();
        for (name, value) in self.fields(yaml, "'on_deny'", ON_DENY_FIELDS)? {
            match name {
                "body" => on_deny.body = self.denial_body(name, value),
                "headers" => on_deny.headers = self.headers(name, value),
                _ => {}
            }
        }
        Some(Arc::new(on_deny))
    }

    fn denial_body(&mut self, name: &str, yaml: &Yaml) -> Option<DenialBody> {
        match &yaml.value {
            Raw::Text(text) if text == "problem_json" => return Some(DenialBody::Problem),
            Raw::Map(_) => {}
            _ => {
                self.wrong_kind(name, "problem_json or a map such as {text: \"…\"}", yaml);
                return None;
            }
        }
        let (mut template, mut content_type, mut has_text) = (None, PLAIN_TEXT, false);
        for (name, value) in self.fields(yaml, "'body'", BODY_FIELDS)? {
            match name {
                "text" => {
                    has_text = true;
                    template = self.template(name, value);
                }
                "content_type" => {
                    let found = self.name(name, value);
                    match found.as_deref().map(parse_value) {
                        Some(Some(found)) => content_type = found,
                        Some(None) => self.wrong_kind(name, "a media type such as text/html", value),
                        None => {}
                    }
                }
                _ => {}
            }
        }
        if !has_text {
            self.error(yaml::span(yaml), "'body' without 'text': write 'body: {text: \"…\"}'".to_owned());
        }
        template.map(|template| DenialBody::Text { template, content_type })
    }

    fn template(&mut self, name: &str, yaml: &Yaml) -> Option<Template> {
        let text = self.text(name, yaml)?;
        match Template::parse(&text.value) {
            Ok(template) => Some(template),
            Err(error) => {
                self.error(text.span, format!("invalid '{name}' of 'on_deny': {error}"));
                None
            }
        }
    }

    fn headers(&mut self, name: &str, yaml: &Yaml) -> Vec<(HeaderName, HeaderValue)> {
        let entries = self.map(name, yaml).unwrap_or_default();
        if entries.len() > MAX_HEADERS {
            self.error(yaml::span(yaml), format!("'headers' may be {MAX_HEADERS} at the most"));
            return Vec::new();
        }
        let mut headers = Vec::<(HeaderName, HeaderValue)>::with_capacity(entries.len());
        for (key, value) in entries {
            let Some(name) = self.text("the name of a header", key) else { continue };
            let Some(text) = self.text(&name.value, value) else { continue };
            match parse_header(&name.value, &text.value) {
                Ok((known, _)) if headers.iter().any(|(other, _)| *other == known) => {
                    self.error(name.span, format!("the header '{known}' stands there twice"));
                }
                Ok(header) => headers.push(header),
                Err(error) => self.error(name.span, format!("invalid header of 'on_deny': {error}")),
            }
        }
        headers
    }
}
