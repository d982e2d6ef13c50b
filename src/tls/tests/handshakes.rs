use super::*;

/// Path of a file in this directory.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tls/tests").join(name)
}

async fn outcome(client: &ClientTls, server: &ServerTls) -> Result<(), String> {
    let (client, server) = live(&reloader(), client, server);
    shake_hands(&client, &server).await.map_err(|(error, _)| error)
}

#[tokio::test]
async fn a_server_is_accepted_if_a_trusted_authority_signed_its_certificate_for_its_name() {
    let dir = dir();
    let (ours, other) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "other"));
    let server = plain(ours.sign(dir.path(), "localhost"));
    let elsewhere = plain(ours.sign(dir.path(), "elsewhere"));
    for (ca, server, verify_hostname, expected) in [
        (&ours, &server, true, None),
        (&other, &server, true, Some("UnknownIssuer")),
        (&ours, &elsewhere, true, Some("not valid for name")),
        (&ours, &elsewhere, false, None),
        (&ours, &server, false, None),
        (&other, &server, false, Some("UnknownIssuer")),
        (&other, &elsewhere, false, Some("UnknownIssuer")),
    ] {
        let client = ClientTls { verify_hostname, ..ca.client(None) };
        match (outcome(&client, server).await, expected) {
            (Ok(()), None) => {}
            (Err(found), Some(expected)) if found.contains(expected) => {}
            (found, _) => panic!("{client:?} {server:?}: {found:?}"),
        }
    }
}

#[tokio::test]
async fn an_authority_that_presents_its_own_certificate_is_rejected_in_words() {
    let dir = dir();
    let ours = Authority::new(dir.path(), "ours");
    let authority = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.subject_alt_names = vec![dns("localhost")];
    };
    let identity = ours.sign_with(dir.path(), "localhost", authority);
    let (client, server) = live(&reloader(), &ours.client(None), &plain(identity));
    let (error, _) = shake_hands(&client, &server).await.unwrap_err();
    let error = client.explain(error);
    assert!(error.contains("certificate of an authority") && !error.contains("Other"), "{error}");
}

#[tokio::test]
async fn with_mutual_tls_a_client_needs_a_certificate_of_the_authority() {
    let dir = dir();
    let (ours, other) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "other"));
    let server = ours.server(ours.sign(dir.path(), "localhost"), &[]);
    for (identity, is_accepted) in [
        (Some(ours.sign(dir.path(), "client")), true),
        (Some(other.sign(dir.path(), "stranger")), false),
        (None, false),
    ] {
        let client = ours.client(identity);
        assert_eq!(outcome(&client, &server).await.is_ok(), is_accepted, "{client:?}");
    }
}

#[tokio::test]
async fn a_client_certificate_needs_one_of_the_names() {
    let dir = dir();
    let ours = Authority::new(dir.path(), "ours");
    let client = ours.sign_with(dir.path(), "client", |params| {
        params.subject_alt_names = vec![
            dns("*.envoy.example"),
            uri("spiffe://mesh.example/ns/web/sa/envoy"),
            rcgen::SanType::IpAddress([192, 0, 2, 7].into()),
        ];
    });
    let nameless = ours.sign_with(dir.path(), "nameless", |_| {});
    let server = ours.sign(dir.path(), "localhost");
    for (names, is_accepted) in [
        (&["a.envoy.example"][..], true),
        (&["envoy.example"], false),
        (&["a.b.envoy.example"], false),
        (&["spiffe://mesh.example/ns/web/sa/envoy"], true),
        (&["spiffe://mesh.example/ns/web/sa/envoy2"], false),
        (&["spiffe://mesh.example/ns/web/sa/Envoy"], false),
        (&["192.0.2.7"], true),
        (&["192.0.2.8"], false),
        (&["other.example", "spiffe://mesh.example/ns/web/sa/envoy"], true),
    ] {
        let server = ours.server(server.clone(), names);
        let found = outcome(&ours.client(Some(client.clone())), &server).await;
        assert_eq!(found.is_ok(), is_accepted, "{names:?}: {found:?}");
        assert!(outcome(&ours.client(Some(nameless.clone())), &server).await.is_err(), "{names:?}");
    }
}

/// Certificates as Envoy Gateway makes them: RSA, no extended key usage, a wildcard of one label.
#[tokio::test]
async fn certificates_of_envoy_gateway_work_in_both_directions() {
    let ca = fixture("gateway-ca.crt");
    for key in ["gateway.key", "gateway-pkcs8.key"] {
        let identity = Identity { certificate: fixture("gateway.crt"), key: fixture(key) };
        let names = vec!["envoy.envoy-gateway-system".parse().unwrap()];
        let server = ServerTls {
            identity: identity.clone(),
            clients: Some(ClientAuth { ca: ca.clone(), names, is_optional: false }),
        };
        // Envoy does not compare the name either.
        let client = ClientTls { ca: Some(ca.clone()), identity: Some(identity), verify_hostname: false };
        assert_eq!(outcome(&client, &server).await, Ok(()), "{key}");
    }
}

#[tokio::test]
async fn keys_of_elliptic_curves_may_have_their_parameters_before_them() {
    let identity = Identity { certificate: fixture("sec1.crt"), key: fixture("sec1.key") };
    let client = ClientTls { ca: Some(fixture("sec1.crt")), identity: None, verify_hostname: true };
    assert_eq!(outcome(&client, &plain(identity)).await, Ok(()));
}

#[tokio::test]
async fn failed_handshakes_are_counted_and_those_without_a_word_are_not() {
    let dir = dir();
    let ours = Authority::new(dir.path(), "ours");
    let reloader = reloader();
    let (client, server) =
        live(&reloader, &ours.client(None), &ours.server(ours.sign(dir.path(), "localhost"), &[]));
    let (near, far) = tokio::io::duplex(64);
    drop(near);
    assert!(server.accept(far).await.is_none());
    assert_eq!(server.handshake_failures(), 0);

    assert!(shake_hands(&client, &server).await.is_err());
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(server.accept(far).await.is_none());
    let failures: Vec<_> = reloader.statuses().iter().map(|status| status.handshake_failures).collect();
    assert_eq!(failures, [0, 2]);
}
