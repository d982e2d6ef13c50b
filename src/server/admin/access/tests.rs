use std::io::Write as _;

use axum::http::HeaderValue;

use super::*;

const VIEW: &str = "view-view-view-view";
const ADMIN: &str = "admin:with:colons:in:it";

fn access() -> Access {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(format!("view:{VIEW}\nadmin:{ADMIN}\n").as_bytes()).unwrap();
    let proxies = TrustedProxies {
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        user_header: HeaderName::from_static("x-forwarded-user"),
        groups_header: HeaderName::from_static("x-forwarded-groups"),
        roles: vec![("oncall".to_owned(), Role::Operate), ("sre".to_owned(), Role::Admin)],
    };
    let settings = AccessSettings {
        token_file: Some(file.path().to_owned()),
        proxies: Some(proxies),
        certificates: Vec::new(),
    };
    Access::load(&settings).unwrap()
}

fn client(address: &str) -> Client<'static> {
    let address: IpAddr = address.parse().unwrap();
    Client { is_local: address.is_loopback(), address: Some(address), certificate: None, is_secure: false }
}

fn authenticate(
    access: &Access,
    address: &str,
    headers: &[(&'static str, &str)],
) -> Result<Actor, StatusCode> {
    let header = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    // `FromIterator` would replace the first of two equal names.
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter().map(header) {
        map.append(name, value);
    }
    let now = Timestamp::from_secs(1_000_000);
    access.authenticate(&Method::GET, &map, client(address), now).map_err(|rejected| rejected.status)
}

#[tokio::test]
async fn a_bearer_has_the_role_of_its_token() {
    let access = access();
    let role =
        |value: &str| authenticate(&access, "192.0.2.1", &[("authorization", value)]).map(|actor| actor.role);
    assert_eq!(role(&format!("Bearer {VIEW}")), Ok(Role::View));
    assert_eq!(role(&format!("bearer  {ADMIN}")), Ok(Role::Admin));
    for wrong in
        ["Bearer nonsense", "Bearer ", "Basic dmlldzp2aWV3LXZpZXctdmlldy12aWV3", "Digest a", "", "Bearer"]
    {
        assert_eq!(role(wrong), Err(StatusCode::UNAUTHORIZED), "{wrong}");
    }
}

#[test]
fn without_authentication_only_clients_on_this_machine_may_read() {
    let access = Access::load(&AccessSettings::default()).unwrap();
    assert_eq!(authenticate(&access, "127.0.0.1", &[]).map(|actor| actor.role), Ok(Role::View));
    assert_eq!(authenticate(&access, "192.0.2.1", &[]), Err(StatusCode::FORBIDDEN));
}

#[tokio::test]
async fn a_user_has_the_highest_role_of_its_groups_if_the_proxy_is_trusted() {
    let access = access();
    let (user, groups) = ("x-forwarded-user", "x-forwarded-groups");
    let from = |address, headers: &[_]| {
        authenticate(&access, address, headers).map(|actor| (actor.name, actor.role))
    };
    let ann = |role| Ok(("user ann".to_owned(), role));
    assert_eq!(from("10.1.2.3", &[(user, "ann"), (groups, "dev, oncall")]), ann(Role::Operate));
    assert_eq!(from("::ffff:10.1.2.3", &[(user, "ann"), (groups, "oncall,sre")]), ann(Role::Admin));
    let twice = from("10.1.2.3", &[(user, "ann"), (groups, "oncall"), (groups, "sre")]);
    assert_eq!(twice, Err(StatusCode::FORBIDDEN), "the second one may be the client's own");
    assert_eq!(from("10.1.2.3", &[(user, "ann"), (groups, "dev")]), Err(StatusCode::FORBIDDEN));
    assert_eq!(from("10.1.2.3", &[(user, "ann"), (groups, "*")]), Err(StatusCode::FORBIDDEN));
    assert_eq!(
        from("10.1.2.3", &[(user, "ann"), (user, "root"), (groups, "sre")]),
        Err(StatusCode::FORBIDDEN)
    );
    assert_eq!(from("10.1.2.3", &[(user, ""), (groups, "sre")]), Err(StatusCode::FORBIDDEN));
    assert_eq!(from("10.1.2.3", &[(groups, "sre")]), Err(StatusCode::UNAUTHORIZED));
    for untrusted in ["192.0.2.1", "127.0.0.1", "fd00::1"] {
        let forged = from(untrusted, &[(user, "ann"), (groups, "sre")]);
        assert_eq!(forged, Err(StatusCode::UNAUTHORIZED), "{untrusted}");
    }
}

#[tokio::test]
async fn an_authorization_that_is_no_known_token_leaves_the_user_of_the_proxy() {
    let with_tokens = access();
    let without_tokens = Access { tokens: None, ..access() };
    let user = [("x-forwarded-user", "ann"), ("x-forwarded-groups", "oncall")];
    for access in [with_tokens, without_tokens] {
        for value in ["Basic YW5uOnNlY3JldA==", "Bearer an-access-token-of-the-proxy", ""] {
            let sent = [&user[..], &[("authorization", value)]].concat();
            let role = |address| authenticate(&access, address, &sent).map(|actor| actor.role);
            assert_eq!(role("10.1.2.3"), Ok(Role::Operate), "{value}");
            assert_eq!(role("192.0.2.1"), Err(StatusCode::UNAUTHORIZED), "{value}");
        }
    }
}
