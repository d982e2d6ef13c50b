//! Client of the admin listener: one request, JSON in and out.

use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::engine::text::one_line_of_bytes;
use crate::settings;

/// Upper bound on connecting, and on waiting for the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Upper bound on an answer without an error text that is shown, in bytes.
const MAX_SHOWN: usize = 200;
/// Variable with a token.
const TOKEN: &str = "TOLLGATE_ADMIN_TOKEN";
/// Characters that a query takes as they are.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The admin listener of a running service.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct AdminArgs {
    /// Admin listener of a running service: `host:port` or `http://host:port`.
    #[arg(long, default_value = "127.0.0.1:6071", global = true)]
    pub(in crate::cli) address: String,
    /// File with a token of `ADMIN_TOKEN_FILE`, alone or as its line `ROLE:TOKEN`. The variable
    /// `TOLLGATE_ADMIN_TOKEN` may hold a token instead.
    #[arg(long, value_name = "PATH", global = true)]
    pub(in crate::cli) token_file: Option<PathBuf>,
}

/// `text` for a query or a path.
pub(in crate::cli) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}

impl AdminArgs {
    /// Sends a request, with `body` as JSON, and returns the JSON of the answer.
    ///
    /// # Errors
    /// The listener cannot be reached, or its answer is an error: then its text, and what to do about it.
    pub(in crate::cli) fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer =
            async { tokio::time::timeout(TIMEOUT, self.send(method, path, body, idempotency_key)).await };
        let address = &self.address;
        let (status, body) = runtime
            .block_on(answer)
            .with_context(|| format!("no answer from {address} within {TIMEOUT:?}"))??;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .with_context(|| format!("the answer of {address} is not JSON: is it the admin listener?"));
        }
        let text = serde_json::from_slice::<Value>(&body).ok();
        let text = text.as_ref().and_then(|body| body["error"].as_str());
        let text = text.map_or_else(|| one_line_of_bytes(&body, MAX_SHOWN), str::to_owned);
        let remedy = match (status, self.token_file.is_some() || settings::environment(TOKEN).is_some()) {
            (StatusCode::UNAUTHORIZED, false) => {
                format!("\nPass a token with --token-file, or in {TOKEN}.")
            }
            (StatusCode::FORBIDDEN, false) => format!(
                "\nChanges need a token: set ADMIN_TOKEN_FILE for the service, and pass one with --token-file or in \
                 {TOKEN}."
            ),
            (StatusCode::NOT_FOUND, _) if !text.starts_with(|c: char| c.is_ascii_lowercase()) => {
                "\nIs it the admin listener? It is on port 6071 by default.".to_owned()
            }
            _ => String::new(),
        };
        bail!("{address} answered {status}: {text}{remedy}")
    }

    fn host_and_port(&self) -> &str {
        self.address.strip_prefix("http://").unwrap_or(&self.address).trim_end_matches('/')
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.token_file else { return Ok(settings::environment(TOKEN)) };
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the token file {}", path.display()))?;
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let line = lines.next().with_context(|| format!("the token file {} is empty", path.display()))?;
        let of_role = line.split_once(':').filter(|(role, _)| ["view", "operate", "admin"].contains(role));
        Ok(Some(of_role.map_or(line, |(_, token)| token.trim()).to_owned()))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let address = self.host_and_port();
        let mut request = http::Request::builder().method(method).uri(path).header(header::HOST, address);
        if let Some(token) = self.token()? {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(ToString::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body)))?;
        let failed = |error: &dyn Display| {
            anyhow!(
                "no answer from the admin listener of a service at {address}: {error}\nIt is on port 6071 of its own \
                 machine by default; set --address, or forward the port: kubectl port-forward deploy/tollgate 6071"
            )
        };
        let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| anyhow!("the answer of {address} cannot be read: {error}"))?;
        connection.abort();
        Ok((status, body.to_bytes()))
    }
}
