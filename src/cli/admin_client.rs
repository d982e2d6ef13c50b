//! Calls of the admin API, for the commands that use it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::engine::text::one_line_of_bytes;
use crate::server::admin::{Role, token_and_name};
use crate::settings;
use crate::tls::{TlsClient, TlsFlags};

/// Upper bound on one call.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Time for which lockouts are searched.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(300);
/// Time between two looks at a search, each of which takes seconds itself unless the search has failed.
const SEARCH_PAUSE: Duration = Duration::from_millis(500);

/// Upper bound on an answer.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Upper bound on an answer without an error text that is shown, in characters.
const MAX_SHOWN: usize = 200;

/// Variable with a token.
const TOKEN: &str = "TOLLGATE_ADMIN_TOKEN";

/// Variable with the token file of the service.
const TOKEN_FILE: &str = "ADMIN_TOKEN_FILE";

/// Place of the listener, for errors of connections.
const PLACE: &str = "The admin listener is on port 6071 of the service's own machine by default; set --address, or \
                     forward the port: kubectl port-forward deploy/tollgate 6071";

/// Characters that a query takes as they are.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The service, and what authenticates the command.
#[derive(Args, Debug)]
pub(super) struct AdminFlags {
    /// Admin listener of the service: `host:port`, `http://host:port` or `https://host:port`.
    #[arg(long, default_value = "127.0.0.1:6071", value_name = "ADDRESS")]
    address: String,
    /// File with a token: the token alone, or a token file of the service, of which the highest role is used. Unset:
    /// the token in the variable `TOLLGATE_ADMIN_TOKEN`, or else the file that `ADMIN_TOKEN_FILE` names.
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsFlags,
}

/// Calls the admin API of one service.
pub(super) struct AdminClient {
    /// `host:port`
    authority: String,
    authorization: Option<SecretString>,
    tls: Option<TlsClient>,
    advice: &'static str,
}

impl AdminFlags {
    /// A client with the files read.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub(super) fn client(&self) -> anyhow::Result<AdminClient> {
        AdminClient::new(&self.address, self.token_file.as_deref(), &self.tls)
    }
}

/// `text` for a query or a path.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}

/// The token of the file, or else of the environment.
fn token(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let file = match file {
        Some(file) => file.to_owned(),
        None => match (settings::environment(TOKEN), settings::environment(TOKEN_FILE)) {
            (None, Some(file)) => file.into(),
            (token, _) => return Ok(token),
        },
    };
    let text = fs::read_to_string(&file);
    let text = text.with_context(|| format!("cannot read the token file {}", file.display()))?;
    let token = token_in(&text).with_context(|| format!("the token file {} has no token", file.display()))?;
    Ok(Some(token.to_owned()))
}

/// The token in a file: that of the highest role where lines have roles, else the first line.
fn token_in(text: &str) -> Option<&str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let with_role = |line: &'_ str| -> Option<(Role, usize)> {
        let (role, _) = line.split_once(':')?;
        Some((Role::named(role.trim())?, role.len() + 1))
    };
    let best =
        lines.clone().filter_map(|line| Some((with_role(line)?, line))).max_by_key(|((role, _), _)| *role);
    match best {
        Some(((_, start), line)) => Some(token_and_name(&line[start..]).0),
        None => lines.into_iter().next(),
    }
}

impl AdminClient {
    /// A client of the admin listener at `address`, with the files read.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub(super) fn new(address: &str, token_file: Option<&Path>, tls: &TlsFlags) -> anyhow::Result<Self> {
        let authority =
            address.strip_prefix("http://").or(address.strip_prefix("https://")).unwrap_or(address);
        let authority = authority.trim_end_matches('/').to_owned();
        if authority.parse::<http::uri::Authority>().ok().and_then(|parsed| parsed.port_u16()).is_none() {
            bail!("--address: expected host:port, http://host:port or https://host:port, found {address:?}");
        }
        Ok(Self {
            authority,
            authorization: token(token_file)?.map(|token| format!("Bearer {token}").into()),
            tls: tls.http_client(address)?,
            advice: tls.advice_on_lost_connection(address),
        })
    }

    /// Address of the service, `host:port`.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Answer to a read of `path` below `/api/v1`.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None, None).await
    }

    /// Every lockout at `path`: all pages, as soon as the service has searched its stores, or what it has found by then if that
    /// takes longer than [`SEARCH_TIMEOUT`].
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) async fn lockouts(&self, path: &str) -> anyhow::Result<Value> {
        let begun = Instant::now();
        let mut all = self.get(path).await?;
        while all["searching"] == true && begun.elapsed() < SEARCH_TIMEOUT {
            tokio::time::sleep(SEARCH_PAUSE).await;
            all = self.get(path).await?;
        }
        while let Some(cursor) = all["next_cursor"].as_str() {
            let mut page = self.get(&format!("{path}&cursor={}", encoded(cursor))).await?;
            all["next_cursor"] = page["next_cursor"].take();
            let lockouts = page["lockouts"].as_array_mut().map(std::mem::take).unwrap_or_default();
            all["lockouts"].as_array_mut().into_iter().for_each(|of_all| of_all.extend(lockouts.clone()));
        }
        Ok(all)
    }

    /// Answer to a call of `path` below `/api/v1`.
    ///
    /// # Errors
    /// The service cannot be reached, does not answer within ten seconds, or answers with an error, which is quoted.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<Value> {
        let call = self.exchange(method, path, body, idempotency_key);
        let (status, answer) = tokio::time::timeout(TIMEOUT, call)
            .await
            .map_err(|_| anyhow!("{} did not answer within {TIMEOUT:?}", self.authority))??;
        if status.is_success() {
            return serde_json::from_slice(&answer).with_context(|| {
                format!("{} did not answer with JSON; is it an admin listener?", self.authority)
            });
        }
        let error = serde_json::from_slice::<Value>(&answer).unwrap_or_default();
        let error = error["error"].as_str().unwrap_or_default();
        let advice = match (status, &self.authorization) {
            (StatusCode::UNAUTHORIZED, _) => {
                "\nSet --token-file or TOLLGATE_ADMIN_TOKEN, or --tls-cert and --tls-key."
            }
            (StatusCode::FORBIDDEN, None) => {
                "\nChanges need a role: set ADMIN_TOKEN_FILE for the service, and pass a token with --token-file or \
                 TOLLGATE_ADMIN_TOKEN."
            }
            (StatusCode::NOT_FOUND, _) if error.is_empty() => {
                "\nIs it the admin listener, port 6071 by default?"
            }
            _ => "",
        };
        let error = match error {
            "" => one_line_of_bytes(&answer, MAX_SHOWN),
            error => error.to_owned(),
        };
        Err(anyhow!("{} answered {status}: {error}{advice}", self.authority))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(header::HOST, &self.authority)
            .header(header::CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            let mut value = HeaderValue::from_str(authorization.expose_secret())
                .context("the token has characters that no header may have")?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body)))?;
        let stream = TcpStream::connect(&self.authority)
            .await
            .map_err(|error| anyhow!("cannot connect to {}: {error}\n{PLACE}", self.authority))?;
        match &self.tls {
            None => self.over(stream, request).await,
            Some(tls) => {
                let host = self.authority.rsplit_once(':').map_or("", |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let stream = tls.connect(host, stream).await;
                self.over(stream.with_context(|| format!("no TLS with {}", self.authority))?, request).await
            }
        }
    }

    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let lost = |error: hyper::Error| {
            let (authority, advice) = (&self.authority, self.advice);
            anyhow!("{authority} closed the connection without an answer: {error}{advice}\n{PLACE}")
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let driven = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(lost)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body =
            body.map_err(|error| anyhow!("the answer of {} cannot be read: {error}", self.authority))?;
        driven.abort();
        Ok((status, body.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_of_the_highest_role_is_used() {
        for (text, expected) in [
            ("view:aaaa\n# note\nadmin: bbbb\noperate:cccc\n", Some("bbbb")),
            ("\nsome:other:token\n", Some("some:other:token")),
            ("view:aaaa\nadmin:bbbb # ann\n", Some("bbbb")),
            ("plain-token", Some("plain-token")),
            ("# nothing\n\n", None),
        ] {
            assert_eq!(token_in(text), expected, "{text:?}");
        }
    }
}
