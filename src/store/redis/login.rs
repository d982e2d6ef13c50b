//! Logins: their text form, and those that are read from a file.

use std::path::{Path, PathBuf};
use std::{fs, io};

use secrecy::{ExposeSecret as _, SecretString};

use super::Login;

/// A file with logins that cannot be used. Never quotes its content.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The file cannot be read, or is not UTF-8.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("{}: it is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Login {
    /// Login for `password`, `:password` or `user:password`. The user ends at the first colon.
    pub fn parse(text: &str) -> Self {
        let (username, password) = split(text);
        Self::Password { username, password: SecretString::from(password) }
    }

    /// True if the credentials could be used now.
    ///
    /// # Errors
    /// As with a login that cannot be read: its file is missing, empty or no UTF-8.
    pub fn check(&self) -> Result<(), LoginError> {
        self.read().map(drop)
    }

    /// The user, `None` for the default one, and the password, `None` where none is asked for. A file is
    /// read again each time, so that a password may change while the service runs.
    pub(super) fn read(&self) -> Result<(Option<String>, Option<String>), LoginError> {
        match self {
            Self::Open => Ok((None, None)),
            Self::Password { username, password } => {
                Ok((username.clone(), Some(password.expose_secret().to_owned())))
            }
            Self::File(path) => {
                let (username, password) = split(read_line(path)?.expose_secret());
                Ok((username, Some(password)))
            }
        }
    }
}

/// Content of the file, without the line's end.
fn read_line(path: &Path) -> Result<SecretString, LoginError> {
    let text = fs::read_to_string(path)
        .map(SecretString::from)
        .map_err(|source| LoginError::Unreadable { path: path.to_owned(), source })?;
    match text.expose_secret().trim_end_matches(['\n', '\r']) {
        "" => Err(LoginError::Empty { path: path.to_owned() }),
        line => Ok(SecretString::from(line)),
    }
}

fn split(text: &str) -> (Option<String>, String) {
    let (username, password) = text.split_once(':').unwrap_or(("", text));
    ((!username.is_empty()).then(|| username.to_owned()), password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(login: &Login) -> (Option<String>, Option<String>) {
        login.read().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_login_is_a_password_and_perhaps_a_user() {
        for (text, username, password) in [
            ("secret", None, "secret"),
            (":secret", None, "secret"),
            ("user:secret", Some("user"), "secret"),
            ("user:s:e:cret", Some("user"), "s:e:cret"),
            ("user:", Some("user"), ""),
        ] {
            let expected = (username.map(String::from), Some(password.to_owned()));
            assert_eq!(read(&Login::parse(text)), expected, "{text}");
        }
        assert_eq!(read(&Login::Open), (None, None));
    }

    #[test]
    fn a_file_is_read_each_time_without_the_end_of_its_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("auth");
        let login = Login::File(path.clone());
        for (text, username, password) in [
            ("first", None, "first"),
            ("second\n", None, "second"),
            ("user:third\r\n", Some("user"), "third"),
            ("user: with space \n\n", Some("user"), " with space "),
        ] {
            fs::write(&path, text).expect("written");
            let expected = (username.map(String::from), Some(password.to_owned()));
            assert_eq!(read(&login), expected, "{text:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_and_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        for (content, expected) in [
            (None, "No such file"),
            (Some(b"".as_slice()), "it is empty"),
            (Some(b"\n"), "it is empty"),
            (Some(b"hunter2\xff"), "UTF-8"),
        ] {
            let path = folder.path().join("auth");
            if let Some(content) = content {
                fs::write(&path, content).expect("written");
            }
            let error = Login::File(path.clone()).check().expect_err("no login");
            let shown = format!("{error} {error:?}");
            assert!(error.to_string().starts_with(&path.display().to_string()), "{shown}");
            assert!(shown.contains(expected) && !shown.contains("hunter2"), "{shown}");
        }
    }
}
