//! Access to the admin listener: tokens, sessions of browsers, certificates, users that a proxy in front names, and
//! clients on this machine where none of these is configured.

mod session;
mod tokens;

use std::net::IpAddr;
use std::path::PathBuf;

use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use ipnet::IpNet;

pub use self::tokens::{TokenFileError, token_and_name};

use self::session::{CookieRequest, Ended};
use self::tokens::Tokens;
use crate::engine::Timestamp;
use crate::engine::text::one_line_of_bytes;
use crate::tls::{ClientCertificate, PeerName};

/// Upper bound on the name of a user that a proxy sends, in characters.
const MAX_USER: usize = 128;
/// Group that every user of a proxy is in.
const EVERYONE: &str = "*";

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

    /// Name in token files, settings and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Means of authentication. Without any, clients on this machine may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessSettings {
    /// File of tokens.
    pub token_file: Option<PathBuf>,
    /// Proxies that authenticate users.
    pub proxies: Option<TrustedProxies>,
    /// Roles by a name in the client's certificate, which the listener has verified; the first that matches holds.
    pub certificates: Vec<(PeerName, Role)>,
}

/// Proxies that authenticate users and name them in headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Their addresses. The headers of other peers are ignored.
    pub networks: Vec<IpNet>,
    /// Header with the name of the user.
    pub user_header: HeaderName,
    /// Header with the user's groups, separated by commas.
    pub groups_header: HeaderName,
    /// Roles by group, `*` for every user. A user has the highest role of its groups.
    pub roles: Vec<(String, Role)>,
}

/// An authenticated client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) struct Actor {
    /// Name for the audit log: `loopback`, the token's name or else its role and line, the user, or a name in the
    /// certificate.
    pub(in crate::server) name: String,
    /// Role.
    pub(in crate::server) role: Role,
    /// Secret that writes of a session must repeat.
    pub(in crate::server) csrf: Option<String>,
}

/// Reason why a request is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

/// The peer of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'c> {
    /// True if it is on this machine.
    pub(super) is_local: bool,
    pub(super) address: Option<IpAddr>,
    pub(super) certificate: Option<&'c ClientCertificate>,
    /// True if it is over TLS.
    pub(super) is_secure: bool,
}

/// Decides which client a request is from, and its role.
#[derive(Debug)]
pub struct Access {
    tokens: Option<Tokens>,
    proxies: Option<TrustedProxies>,
    certificates: Vec<(PeerName, Role)>,
    /// Sessions that browsers have ended.
    ended: Ended,
}

impl Access {
    /// Reads the token file.
    ///
    /// # Errors
    /// [`TokenFileError`]
    pub fn load(settings: &AccessSettings) -> Result<Self, TokenFileError> {
        Ok(Self {
            tokens: settings.token_file.as_deref().map(Tokens::read).transpose()?,
            proxies: settings.proxies.clone(),
            certificates: settings.certificates.clone(),
            ended: Ended::default(),
        })
    }

    /// False if only clients on this machine have access, and may only read.
    pub(in crate::server) const fn is_configured(&self) -> bool {
        self.tokens.is_some() || self.proxies.is_some() || !self.certificates.is_empty()
    }

    /// True if browsers can log in with a token.
    pub(in crate::server) const fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// The client that sent `headers`.
    ///
    /// # Errors
    /// 401 if nothing authenticates it; 403 if what does gives it no role, if a write lacks the secret of its session,
    /// or if nothing is configured and the client is not on this machine.
    pub(super) fn authenticate(
        &self,
        method: &Method,
        headers: &HeaderMap,
        client: Client<'_>,
        now: Timestamp,
    ) -> Result<Actor, Rejected> {
        if !self.is_configured() {
            if client.is_local {
                return Ok(Actor { name: "loopback".to_owned(), role: Role::View, csrf: None });
            }
            return Err(forbidden(
                "without authentication only clients on this machine are served; see docs/admin.md",
            ));
        }
        // Without a token that is known it may be meant for another: proxies pass on those of their users.
        let sent = headers.get(header::AUTHORIZATION);
        if let Some(actor) = sent.and_then(|sent| self.bearer(sent.as_bytes())) {
            return Ok(actor);
        }
        let cookies = CookieRequest { headers, is_secure: client.is_secure, now };
        let session = self.tokens.as_ref().and_then(|tokens| session::actor(tokens, &self.ended, cookies));
        if let Some(actor) = session {
            if !method.is_safe() && !session::has_csrf_token(&actor, headers) {
                return Err(forbidden("writes of a browser's session need its header x-csrf-token"));
            }
            return Ok(actor);
        }
        if let Some(certificate) = client.certificate {
            let found = self.certificates.iter().find(|(name, _)| certificate.has(name));
            if let Some((name, role)) = found {
                return Ok(Actor { name: name.to_string(), role: *role, csrf: None });
            }
        }
        self.user_of_proxy(headers, client.address)?.ok_or_else(|| self.unauthorized())
    }

    fn bearer(&self, authorization: &[u8]) -> Option<Actor> {
        let (scheme, token) = authorization.split_at_checked(b"Bearer ".len())?;
        let (tokens, index) = self.tokens.as_ref()?.find(token.trim_ascii())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| tokens[index].actor())
    }

    /// The user whom a trusted proxy names; `None` without one.
    fn user_of_proxy(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Option<Actor>, Rejected> {
        let (Some(proxies), Some(peer)) = (&self.proxies, peer) else { return Ok(None) };
        if !proxies.networks.iter().any(|network| network.contains(&peer.to_canonical())) {
            return Ok(None);
        }
        let mut users = headers.get_all(&proxies.user_header).iter();
        let user = match (users.next(), users.next()) {
            (Some(user), None) if !user.is_empty() => one_line_of_bytes(user.as_bytes(), MAX_USER),
            (None, _) => return Ok(None),
            // A second one may be the client's own.
            _ => return Err(forbidden(&format!("expected one header {} with a name", proxies.user_header))),
        };
        let mut groups = headers.get_all(&proxies.groups_header).iter();
        let (groups, None) = (groups.next(), groups.next()) else {
            return Err(forbidden(&format!("expected at most one header {}", proxies.groups_header)));
        };
        let groups = groups.and_then(|groups| groups.to_str().ok()).unwrap_or_default();
        let groups: Vec<_> = groups.split(',').map(str::trim).collect();
        let is_member = |group: &str| group == EVERYONE || groups.contains(&group);
        let role = proxies.roles.iter().filter(|(group, _)| is_member(group)).map(|(_, role)| *role).max();
        match role {
            Some(role) => Ok(Some(Actor { name: format!("user {user}"), role, csrf: None })),
            None => Err(forbidden("none of your groups has a role; see ADMIN_GROUP_ROLES")),
        }
    }

    fn unauthorized(&self) -> Rejected {
        let message = match (&self.tokens, &self.proxies) {
            (Some(_), _) => "send 'Authorization: Bearer TOKEN' with a token of ADMIN_TOKEN_FILE",
            (None, Some(_)) => "no user: connect through a proxy of ADMIN_TRUSTED_PROXIES",
            (None, None) => "present a client certificate with a name of ADMIN_CLIENT_ROLES",
        };
        Rejected { status: StatusCode::UNAUTHORIZED, message: message.to_owned() }
    }

    /// `Set-Cookie` of a new session, and its actor, if `token` is known.
    pub(super) fn log_in(&self, token: &str, now: Timestamp, is_secure: bool) -> Option<(String, Actor)> {
        let (tokens, index) = self.tokens.as_ref()?.find(token.trim().as_bytes())?;
        Some((session::set_cookie(&tokens[index], now, is_secure), tokens[index].actor()))
    }

    /// Ends the session in `headers`, and returns the `Set-Cookie` that removes it.
    pub(super) fn log_out(&self, headers: &HeaderMap, now: Timestamp, is_secure: bool) -> String {
        if let Some(tokens) = &self.tokens {
            self.ended.end(tokens, CookieRequest { headers, is_secure, now });
        }
        session::clear_cookie(is_secure)
    }
}

fn forbidden(message: &str) -> Rejected {
    Rejected { status: StatusCode::FORBIDDEN, message: message.to_owned() }
}

#[cfg(test)]
mod tests;
