//! Access to the admin listener: tokens and roles, and clients on this machine where there are no tokens.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use tokio::time::Instant;

use crate::tls::read_bounded;

/// Time between two looks at the token file.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest token. A shorter one could be guessed.
const MIN_TOKEN_BYTES: usize = 16;

/// Role of a client. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    View,
    /// Lifts lockouts, resets counters, sets overrides.
    Operate,
    /// Reloads rules and changes what they enforce.
    Admin,
}

impl Role {
    const ALL: [Self; 3] = [Self::View, Self::Operate, Self::Admin];

    /// Name in token files and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

/// An authenticated client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Actor {
    /// Name for the audit log: `loopback`, or the token's role and line.
    pub name: String,
    /// Role.
    pub role: Role,
}

/// Reason why a request is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

/// A token file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// The file cannot be read.
    #[error("cannot read the token file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A line is not a token.
    #[error("token file {}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// The problem, which never quotes the token.
        problem: &'static str,
    },
    /// The file has no tokens.
    #[error("the token file {} has no tokens: write lines such as 'view:TOKEN', with at least {MIN_TOKEN_BYTES} characters", .0.display())]
    Empty(PathBuf),
}

/// A token, as its digest: comparing digests takes the same time whatever was sent.
#[derive(Debug)]
struct Token {
    digest: [u8; 32],
    role: Role,
    line: usize,
}

/// Tokens of a file, re-read when it changes.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    tokens: Arc<[Token]>,
    /// Digest of the text that was read last, with errors or without.
    digest: [u8; 32],
    checked_at: Instant,
}

impl Tokens {
    /// Reads the token file at `path`: lines of `ROLE:TOKEN`, where the role is `view`, `operate` or `admin`.
    /// Empty lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// [`TokenFileError`]
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let text = read(path)?;
        let tokens = parse(path, &text)?;
        let current = Current { tokens, digest: sha256(text.as_bytes()), checked_at: Instant::now() };
        Ok(Self { path: path.to_owned(), current: Mutex::new(current) })
    }

    /// Actor with `token`.
    fn actor(&self, token: &[u8]) -> Option<Actor> {
        let sent = sha256(token);
        let tokens = self.tokens();
        let token = tokens.iter().find(|token| token.digest == sent)?;
        Some(Actor { name: format!("{} token, line {}", token.role.name(), token.line), role: token.role })
    }

    fn tokens(&self) -> Arc<[Token]> {
        let mut current = self.current.lock();
        if current.checked_at.elapsed() < RECHECK_INTERVAL {
            return Arc::clone(&current.tokens);
        }
        current.checked_at = Instant::now();
        let text = read(&self.path);
        let digest = sha256(text.as_deref().unwrap_or_default().as_bytes());
        if digest != current.digest {
            current.digest = digest;
            match text.and_then(|text| parse(&self.path, &text)) {
                Ok(tokens) => {
                    tracing::info!(tokens = tokens.len(), "token file reloaded");
                    current.tokens = tokens;
                }
                Err(error) => tracing::warn!(%error, "token file has errors; keeping the previous tokens"),
            }
        }
        Arc::clone(&current.tokens)
    }
}

fn read(path: &Path) -> Result<String, TokenFileError> {
    let failed = |source| TokenFileError::Read { path: path.to_owned(), source };
    let content = read_bounded(path).map_err(failed)?;
    String::from_utf8(content).map_err(|_| failed(io::Error::other("it is not UTF-8")))
}

fn parse(path: &Path, text: &str) -> Result<Arc<[Token]>, TokenFileError> {
    let mut tokens = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |problem| TokenFileError::Line { path: path.to_owned(), line: index + 1, problem };
        let (role, token) = line.split_once(':').ok_or_else(|| wrong("expected ROLE:TOKEN"))?;
        let role = Role::ALL.into_iter().find(|known| known.name() == role.trim());
        let role = role.ok_or_else(|| wrong("the role must be view, operate or admin"))?;
        let token = token.trim();
        if token.len() < MIN_TOKEN_BYTES {
            return Err(wrong("the token must have at least 16 characters"));
        }
        tokens.push(Token { digest: sha256(token.as_bytes()), role, line: index + 1 });
    }
    if tokens.is_empty() {
        return Err(TokenFileError::Empty(path.to_owned()));
    }
    Ok(tokens.into())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest_of = [0; 32];
    digest_of.copy_from_slice(digest(&SHA256, bytes).as_ref());
    digest_of
}

/// The client that sent `headers`.
///
/// # Errors
/// 401 where a token is missing or unknown; 403 without tokens, unless the client is on this machine.
pub(super) fn authenticate(
    tokens: Option<&Tokens>,
    headers: &HeaderMap,
    is_local: bool,
) -> Result<Actor, Rejected> {
    let Some(tokens) = tokens else {
        if is_local {
            return Ok(Actor { name: "loopback".to_owned(), role: Role::View });
        }
        let message = "without ADMIN_TOKEN_FILE only clients on this machine are served".to_owned();
        return Err(Rejected { status: StatusCode::FORBIDDEN, message });
    };
    let actor = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => tokens.actor(credentials.trim().as_bytes()),
            // Browsers ask for a name and a password: the password is the token.
            "basic" => {
                let decoded = STANDARD.decode(credentials.trim()).ok()?;
                let colon = memchr::memchr(b':', &decoded)?;
                tokens.actor(&decoded[colon + 1..])
            }
            _ => None,
        }
    });
    actor.ok_or_else(|| Rejected {
        status: StatusCode::UNAUTHORIZED,
        message: "send 'Authorization: Bearer TOKEN' with a token of ADMIN_TOKEN_FILE".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use axum::http::HeaderValue;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn authorization(value: &str) -> HeaderMap {
        [(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    const VIEW: &str = "view-view-view-view";
    const ADMIN: &str = "admin:with:colons:in:it";

    #[tokio::test]
    async fn a_token_gives_its_role_by_bearer_and_as_a_browsers_password() {
        let file = file(&format!("# tokens\n\nview:{VIEW}\nadmin: {ADMIN} \n"));
        let tokens = Tokens::read(file.path()).unwrap();
        let role =
            |value: &str| authenticate(Some(&tokens), &authorization(value), false).map(|actor| actor.role);
        let basic = |token: &str| format!("Basic {}", STANDARD.encode(format!("me:{token}")));
        assert_eq!(role(&format!("Bearer {VIEW}")), Ok(Role::View));
        assert_eq!(role(&basic(ADMIN)), Ok(Role::Admin));
        for wrong in ["Bearer nonsense", "Bearer ", "Basic !", "Digest a", &basic("nonsense"), "Bearer"] {
            let status = role(wrong).map_err(|rejected| rejected.status);
            assert_eq!(status, Err(StatusCode::UNAUTHORIZED), "{wrong}");
        }
    }

    #[test]
    fn without_tokens_only_clients_on_this_machine_may_read() {
        let actor = authenticate(None, &HeaderMap::new(), true).unwrap();
        assert_eq!(actor.role, Role::View);
        let rejected = authenticate(None, &HeaderMap::new(), false).unwrap_err();
        assert_eq!(rejected.status, StatusCode::FORBIDDEN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_takes_effect_and_a_broken_one_keeps_the_previous_tokens() {
        let file = file(&format!("view:{VIEW}\n"));
        let tokens = Tokens::read(file.path()).unwrap();
        let other = "another-token-of-an-operator";
        fs::write(file.path(), format!("operate:{other}\n")).unwrap();
        assert!(tokens.actor(VIEW.as_bytes()).is_some(), "not looked at yet");
        tokio::time::advance(RECHECK_INTERVAL).await;
        assert!(tokens.actor(VIEW.as_bytes()).is_none());
        assert_eq!(tokens.actor(other.as_bytes()).unwrap().role, Role::Operate);
        fs::write(file.path(), "operate:short\n").unwrap();
        tokio::time::advance(RECHECK_INTERVAL).await;
        assert!(tokens.actor(other.as_bytes()).is_some());
    }

    #[tokio::test]
    async fn mistakes_name_the_line_and_never_the_token() {
        for (text, expected) in [
            ("nonsense-without-role\n", "line 1: expected ROLE:TOKEN"),
            ("\nroot:0123456789abcdef\n", "line 2: the role must be view, operate or admin"),
            ("view:secret\n", "line 1: the token must have at least 16 characters"),
            ("# none\n", "has no tokens"),
        ] {
            let file = file(text);
            let error = Tokens::read(file.path()).unwrap_err().to_string();
            assert!(
                error.contains(expected) && !error.contains("secret") && !error.contains("0123"),
                "{error}"
            );
        }
    }
}
