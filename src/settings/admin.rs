//! The admin listener: its address, its TLS, and its authentication.

use std::net::IpAddr;
use std::path::PathBuf;

use http::HeaderName;
use ipnet::IpNet;

use super::raw::RawAdmin;
use super::reader::Reader;
use crate::server::Address;
use crate::server::admin::{AccessSettings, Role, TrustedProxies};
use crate::tls::PeerName;

/// The address; `None` if the listener is off. Without authentication, it must be a loopback address.
pub(super) fn listen(raw: &RawAdmin, reader: &mut Reader) -> Option<Address> {
    if raw.admin_port == "off" {
        return None;
    }
    let host = &raw.admin_host;
    let is_loopback =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_authenticated = raw.admin_token_file.is_some()
        || raw.admin_trusted_proxies.is_some()
        || raw.admin_client_tls_cacert.is_some();
    if !is_loopback && !is_authenticated {
        let expected = "a loopback address, or ADMIN_TOKEN_FILE, ADMIN_TRUSTED_PROXIES or ADMIN_CLIENT_TLS_CACERT \
                        beside it";
        reader.error("ADMIN_HOST", expected, Some(host));
    }
    Some(Address::Tcp { host: host.clone(), port: reader.port("ADMIN_PORT", &raw.admin_port) })
}

/// Means of authentication.
pub(super) fn access(raw: &RawAdmin, reader: &mut Reader) -> AccessSettings {
    AccessSettings {
        token_file: raw.admin_token_file.as_ref().map(PathBuf::from),
        proxies: proxies(raw, reader),
        certificates: certificates(raw, reader),
    }
}

fn proxies(raw: &RawAdmin, reader: &mut Reader) -> Option<TrustedProxies> {
    let (networks, roles) = match (&raw.admin_trusted_proxies, &raw.admin_group_roles) {
        (Some(networks), Some(roles)) => (networks, roles),
        (None, None) => return None,
        (Some(_), None) => {
            let expected = "roles of groups such as 'sre=admin,*=view', since ADMIN_TRUSTED_PROXIES is set";
            reader.error("ADMIN_GROUP_ROLES", expected, None);
            return None;
        }
        (None, Some(roles)) => {
            let expected = "no value, since it has no effect without ADMIN_TRUSTED_PROXIES";
            reader.error("ADMIN_GROUP_ROLES", expected, Some(roles));
            return None;
        }
    };
    let expected = "addresses or networks such as 10.0.0.0/8, separated by commas";
    let networks = reader.read("ADMIN_TRUSTED_PROXIES", networks, expected, |text| {
        text.split(',').map(|network| parse_network(network.trim())).collect()
    });
    let roles =
        reader.read("ADMIN_GROUP_ROLES", roles, "roles of groups such as 'sre=admin,*=view'", |text| {
            roles_of(text, |group| Some(group.to_owned()))
        });
    let mut header =
        |name, text: &str| reader.read(name, text, "the name of a header", |text| text.parse().ok());
    let user_header: Option<HeaderName> = header("ADMIN_USER_HEADER", &raw.admin_user_header);
    let groups_header = header("ADMIN_GROUPS_HEADER", &raw.admin_groups_header);
    Some(TrustedProxies {
        networks: networks?,
        user_header: user_header?,
        groups_header: groups_header?,
        roles: roles?,
    })
}

/// Parses a network, or an address as a network with only that address.
fn parse_network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|address| address.to_canonical().into()))
}

fn certificates(raw: &RawAdmin, reader: &mut Reader) -> Vec<(PeerName, Role)> {
    match (&raw.admin_client_tls_cacert, &raw.admin_client_roles) {
        (Some(_), Some(roles)) => {
            let expected =
                "roles of names in certificates such as 'spiffe://prod/sre=admin,ops.example=view'";
            let parse = |text: &str| roles_of(text, |name| name.parse().ok());
            reader.read("ADMIN_CLIENT_ROLES", roles, expected, parse).unwrap_or_default()
        }
        (Some(_), None) => {
            let expected = "roles of names in certificates, since ADMIN_CLIENT_TLS_CACERT is set";
            reader.error("ADMIN_CLIENT_ROLES", expected, None);
            Vec::new()
        }
        (None, Some(roles)) => {
            let expected = "no value, since it has no effect without ADMIN_CLIENT_TLS_CACERT";
            reader.error("ADMIN_CLIENT_ROLES", expected, Some(roles));
            Vec::new()
        }
        (None, None) => Vec::new(),
    }
}

/// Roles as `NAME=ROLE`, separated by commas. A name may contain `=`.
fn roles_of<T>(text: &str, parse_name: impl Fn(&str) -> Option<T>) -> Option<Vec<(T, Role)>> {
    let entry = |entry: &str| {
        let (name, role) = entry.rsplit_once('=')?;
        let name = name.trim();
        Some((parse_name(name).filter(|_| !name.is_empty())?, Role::named(role.trim())?))
    };
    text.split(',').map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::{read_well, refused};

    #[test]
    fn proxies_and_certificates_get_roles() {
        let access = read_well(&[
            ("ADMIN_TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
            ("ADMIN_GROUP_ROLES", "dc=example=admin"),
            ("ADMIN_USER_HEADER", "X-Auth-Request-User"),
        ])
        .admin_access;
        let proxies = access.proxies.expect("proxies");
        assert_eq!(proxies.networks, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse::<IpNet>().unwrap()]);
        assert_eq!(proxies.roles, [("dc=example".to_owned(), Role::Admin)]);
        assert_eq!(proxies.user_header, "x-auth-request-user");
    }

    #[test]
    fn half_a_configuration_is_an_error() {
        for (typed, name) in [
            (&[("ADMIN_TRUSTED_PROXIES", "10.0.0.0/8")][..], "ADMIN_GROUP_ROLES"),
            (&[("ADMIN_GROUP_ROLES", "sre=admin")], "ADMIN_GROUP_ROLES"),
            (&[("ADMIN_TRUSTED_PROXIES", "ten"), ("ADMIN_GROUP_ROLES", "*=view")], "ADMIN_TRUSTED_PROXIES"),
            (&[("ADMIN_TRUSTED_PROXIES", "::1"), ("ADMIN_GROUP_ROLES", "*=root")], "ADMIN_GROUP_ROLES"),
            (&[("ADMIN_TRUSTED_PROXIES", "::1"), ("ADMIN_GROUP_ROLES", "=view")], "ADMIN_GROUP_ROLES"),
            (&[("ADMIN_CLIENT_ROLES", "ops.example=view")], "ADMIN_CLIENT_ROLES"),
        ] {
            assert_eq!(refused(typed), [name], "{typed:?}");
        }
        assert_eq!(refused(&[("ADMIN_HOST", "0.0.0.0")]), ["ADMIN_HOST"]);
        let tls = [("ADMIN_CLIENT_TLS_CACERT", "/ca.crt"), ("ADMIN_CLIENT_ROLES", "ops.example=view")];
        assert_eq!(refused(&tls), ["ADMIN_CLIENT_TLS_CACERT"], "without TLS");
    }
}
