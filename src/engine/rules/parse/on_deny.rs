//! Parser of `on_deny`.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::Parser;
use super::tables::{BODY, ON_DENY};
use crate::engine::rules::document::{SourceNode, SourceValue};
use crate::engine::rules::on_deny::{DenialBody, MAX_HEADERS, OnDeny, Template, parse_header, parse_value};

/// Default content type of a text.
const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

impl Parser {
    pub(super) fn on_deny(&mut self, node: &SourceNode) -> Option<Arc<OnDeny>> {
        let mut on_deny = OnDeny::default();
        self.fields(node, "'on_deny'", &ON_DENY, |parser, name, value| match name {
            "body" => on_deny.body = parser.denial_body(name, value),
            "headers" => on_deny.headers = parser.headers(name, value),
            _ => {}
        })?;
        Some(Arc::new(on_deny))
    }

    fn denial_body(&mut self, name: &str, node: &SourceNode) -> Option<DenialBody> {
        match &node.value {
            SourceValue::Text(text) if text == "problem_json" => return Some(DenialBody::Problem),
            SourceValue::Map(_) => {}
            _ => {
                self.wrong_kind(name, "problem_json or a map such as {text: \"…\"}", node);
                return None;
            }
        }
        let (mut template, mut content_type, mut has_text) = (None, PLAIN_TEXT, false);
        let unreadable = self.fields(node, "'body'", &BODY, |parser, name, value| match name {
            "text" => {
                has_text = true;
                template = parser.template(name, value);
            }
            "content_type" => {
                let found = parser.name(name, value);
                match found.as_deref().map(parse_value) {
                    Some(Some(found)) => content_type = found,
                    Some(None) => parser.wrong_kind(name, "a media type such as text/html", value),
                    None => {}
                }
            }
            _ => {}
        })?;
        if !has_text && !unreadable.has("text") {
            self.error(node.span, "'body' without 'text': write 'body: {text: \"…\"}'");
        }
        template.map(|template| DenialBody::Text { template, content_type })
    }

    fn template(&mut self, name: &str, node: &SourceNode) -> Option<Template> {
        let text = self.text(name, node)?;
        match Template::parse(&text.value) {
            Ok(template) => Some(template),
            Err(error) => {
                self.error(text.span, format!("invalid '{name}' of 'on_deny': {error}"));
                None
            }
        }
    }

    fn headers(&mut self, name: &str, node: &SourceNode) -> Vec<(HeaderName, HeaderValue)> {
        let entries = self.map(name, node).unwrap_or_default();
        if entries.len() > MAX_HEADERS {
            self.error(node.span, format!("'headers' may have at most {MAX_HEADERS} entries"));
            return Vec::new();
        }
        let mut headers = Vec::<(HeaderName, HeaderValue)>::with_capacity(entries.len());
        for (key, value) in entries {
            let Some(name) = self.text("the name of a header", key) else { continue };
            let Some(text) = self.text(&name.value, value) else { continue };
            match parse_header(&name.value, &text.value) {
                Ok((known, _)) if headers.iter().any(|(other, _)| *other == known) => {
                    self.error(name.span, format!("the header '{known}' is there twice"));
                }
                Ok(header) => headers.push(header),
                Err(error) => self.error(name.span, format!("invalid header of 'on_deny': {error}")),
            }
        }
        headers
    }
}
