//! Tokens and their roles, from a file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use tokio::time::Instant;

use super::{Actor, Role};
use crate::engine::text::one_line_of_bytes;
use crate::tls::read_bounded;

/// Time between two looks at the token file.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest token. A shorter one could be guessed.
const MIN_TOKEN_BYTES: usize = 16;
/// Upper bound on the name of a token, in bytes.
const MAX_NAME: usize = 64;

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
pub(super) struct Token {
    pub(super) digest: [u8; 32],
    role: Role,
    /// Name of its bearer for the audit log.
    name: String,
}

impl Token {
    /// Its bearer.
    pub(super) fn actor(&self) -> Actor {
        Actor { name: self.name.clone(), role: self.role, csrf: None }
    }
}

/// Tokens of a file, re-read when it changes.
#[derive(Debug)]
pub(super) struct Tokens {
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
    /// Reads the token file at `path`: lines of `ROLE:TOKEN` or `ROLE:TOKEN # NAME`, where the role is `view`,
    /// `operate` or `admin`. Empty lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// [`TokenFileError`]
    pub(super) fn read(path: &Path) -> Result<Self, TokenFileError> {
        let text = read(path)?;
        let tokens = parse(path, &text)?;
        let current = Current { tokens, digest: sha256(text.as_bytes()), checked_at: Instant::now() };
        Ok(Self { path: path.to_owned(), current: Mutex::new(current) })
    }

    /// The token that is `sent`.
    pub(super) fn find(&self, sent: &[u8]) -> Option<(Arc<[Token]>, usize)> {
        let digest = sha256(sent);
        let tokens = self.tokens();
        let index = tokens.iter().position(|token| token.digest == digest)?;
        Some((tokens, index))
    }

    /// Tokens of the file as it is now.
    pub(super) fn tokens(&self) -> Arc<[Token]> {
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
        let (token, name) = token_and_name(token);
        if token.len() < MIN_TOKEN_BYTES {
            return Err(wrong("the token must have at least 16 characters"));
        }
        let name = match name {
            Some(name) => format!("token {}", one_line_of_bytes(name.as_bytes(), MAX_NAME)),
            None => format!("{} token, line {}", role.name(), index + 1),
        };
        tokens.push(Token { digest: sha256(token.as_bytes()), role, name });
    }
    if tokens.is_empty() {
        return Err(TokenFileError::Empty(path.to_owned()));
    }
    Ok(tokens.into())
}

/// The token after a role, and the name that a comment gives its bearer.
pub fn token_and_name(text: &str) -> (&str, Option<&str>) {
    let comment = text.match_indices('#').find(|(at, _)| text[..*at].ends_with([' ', '\t']));
    let (token, name) = comment.map_or((text, None), |(at, _)| (&text[..at], Some(text[at + 1..].trim())));
    (token.trim(), name.filter(|name| !name.is_empty()))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest_of = [0; 32];
    digest_of.copy_from_slice(digest(&SHA256, bytes).as_ref());
    digest_of
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn role(tokens: &Tokens, sent: &str) -> Option<Role> {
        tokens.find(sent.as_bytes()).map(|(tokens, index)| tokens[index].role)
    }

    const VIEW: &str = "view-view-view-view";

    #[tokio::test]
    async fn a_line_gives_a_token_its_role() {
        let file = file(&format!("# tokens\n\nview:{VIEW}\nadmin: admin:with:colons:in:it \n"));
        let tokens = Tokens::read(file.path()).unwrap();
        assert_eq!(role(&tokens, VIEW), Some(Role::View));
        assert_eq!(role(&tokens, "admin:with:colons:in:it"), Some(Role::Admin));
        for unknown in ["", "nonsense", "admin:admin:with:colons:in:it", "view-view-view-vie"] {
            assert_eq!(role(&tokens, unknown), None, "{unknown}");
        }
    }

    #[tokio::test]
    async fn a_token_has_the_name_of_its_comment_or_else_of_its_line() {
        let file = file(&format!(
            "# people\nview:{VIEW}\noperate: ann-ann-ann-ann-ann # ann \nview:tab-tab-tab-tab-tab\t# tab\nadmin:bob-bob-bob-bob-#b  #  bob, on call\nview:no-no-no-no-no-no #\n"
        ));
        let tokens = Tokens::read(file.path()).unwrap();
        let name =
            |sent: &str| tokens.find(sent.as_bytes()).map(|(tokens, index)| tokens[index].actor().name);
        assert_eq!(name(VIEW).as_deref(), Some("view token, line 2"));
        assert_eq!(name("ann-ann-ann-ann-ann").as_deref(), Some("token ann"));
        assert_eq!(name("bob-bob-bob-bob-#b").as_deref(), Some("token bob, on call"));
        assert_eq!(name("no-no-no-no-no-no").as_deref(), Some("view token, line 6"));
        assert_eq!(name("tab-tab-tab-tab-tab").as_deref(), Some("token tab"));
        assert_eq!(name("ann-ann-ann-ann-ann # ann"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_takes_effect_and_a_broken_one_keeps_the_previous_tokens() {
        let file = file(&format!("view:{VIEW}\n"));
        let tokens = Tokens::read(file.path()).unwrap();
        let other = "another-token-of-an-operator";
        fs::write(file.path(), format!("operate:{other}\n")).unwrap();
        assert!(role(&tokens, VIEW).is_some(), "not looked at yet");
        tokio::time::advance(RECHECK_INTERVAL).await;
        assert!(role(&tokens, VIEW).is_none());
        assert_eq!(role(&tokens, other), Some(Role::Operate));
        fs::write(file.path(), "operate:short\n").unwrap();
        tokio::time::advance(RECHECK_INTERVAL).await;
        assert!(role(&tokens, other).is_some());
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

    #[tokio::test]
    async fn a_thousand_named_tokens_are_distinguished_in_any_order() {
        const COUNT: usize = 1_000;
        let roles = ["view", "operate", "admin"];
        // They differ in their last digits only, or in a digit that one has and the other has not.
        let token = |index: usize| format!("token-of-a-person-{index}");
        let line = |index: usize| format!("{}:{} # person {index}\n", roles[index % 3], token(index));
        // 7 has no factor in common with 1,000, so that every line is there once.
        let orders: [fn(usize) -> usize; 3] = [|at| at, |at| COUNT - 1 - at, |at| at * 7 % COUNT];
        for order in orders {
            let file = file(&(0..COUNT).map(order).map(line).collect::<String>());
            let tokens = Tokens::read(file.path()).unwrap();
            for index in 0..COUNT {
                let sent = token(index);
                let (found, at) = tokens.find(sent.as_bytes()).expect(&sent);
                let expected = Actor {
                    name: format!("token person {index}"),
                    role: Role::named(roles[index % 3]).unwrap(),
                    csrf: None,
                };
                assert_eq!(found[at].actor(), expected);
                // A token that begins like others, or contains one, is none of them.
                for wrong in [format!("{sent}-"), format!(" {sent}"), sent.to_uppercase()] {
                    assert_eq!(role(&tokens, &wrong), None, "{wrong}");
                }
            }
            assert_eq!(role(&tokens, &token(COUNT)), None);
            // Only digests are kept and compared, so that time says nothing about how much of a token is right.
            assert!(!format!("{:?}", tokens.tokens()).contains("token-of-a-person"));
        }
    }
}
