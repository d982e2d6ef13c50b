use super::*;
use crate::tls::files::Fault;

#[test]
fn a_file_that_cannot_be_used_is_named_and_not_shown() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, text: &str| fs::write(path(name), text).unwrap();
    let authority = Authority::new(dir.path(), "ours");
    let (one, two) = (authority.sign(dir.path(), "one"), authority.sign(dir.path(), "two"));
    write("empty", "");
    write("text", "hunter2");
    write("half", "-----BEGIN CERTIFICATE-----\nhunter2\n");
    write("junk", "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n");
    write("junk.key", "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n");
    write("encrypted.key", include_str!("encrypted.key"));
    write("encrypted-pkcs1.key", include_str!("encrypted-pkcs1.key"));
    fs::create_dir(path("folder")).unwrap();

    let ca = |name: &str| ClientTls { ca: Some(path(name)), ..authority.client(None) };
    let client = |certificate: &Path, key: &Path| {
        authority.client(Some(Identity { certificate: certificate.to_owned(), key: key.to_owned() }))
    };
    for (settings, file, name, fault) in [
        (ca("none"), TlsFile::Ca, "none", "No such file"),
        (ca("folder"), TlsFile::Ca, "folder", "not a regular file"),
        (ca("empty"), TlsFile::Ca, "empty", "no certificate in PEM format"),
        (ca("text"), TlsFile::Ca, "text", "no certificate in PEM format"),
        (ca("one.key"), TlsFile::Ca, "one.key", "no certificate in PEM format"),
        (ca("half"), TlsFile::Ca, "half", "malformed"),
        (ca("junk"), TlsFile::Ca, "junk", "malformed"),
        (client(&path("none"), &one.key), TlsFile::Certificate, "none", "No such file"),
        (client(&path("text"), &one.key), TlsFile::Certificate, "text", "no certificate in PEM format"),
        (client(&path("junk"), &one.key), TlsFile::Certificate, "junk", "malformed"),
        (client(&one.certificate, &path("none")), TlsFile::Key, "none", "No such file"),
        (client(&one.certificate, &path("one.crt")), TlsFile::Key, "one.crt", "no private key in PEM format"),
        (client(&one.certificate, &path("junk.key")), TlsFile::Key, "junk.key", "malformed"),
        (client(&one.certificate, &path("encrypted.key")), TlsFile::Key, "encrypted.key", "is encrypted"),
        (
            client(&one.certificate, &path("encrypted-pkcs1.key")),
            TlsFile::Key,
            "encrypted-pkcs1.key",
            "is encrypted",
        ),
        (client(&one.certificate, &two.key), TlsFile::Key, "two.key", "does not match"),
    ] {
        let error = settings.check().unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&path(name).display().to_string()), "{name}: {text}");
        assert!(text.contains(fault), "{name}: {text}");
        assert!(!format!("{text} {error:?}").contains("hunter2"), "{name}: {error:?}");
        let TlsError::File { file: found, .. } = error else { panic!("{name}: {error:?}") };
        assert_eq!(found, file, "{name}");
    }
    assert!(client(&one.certificate, &one.key).check().is_ok());
}

#[test]
fn certificates_must_be_valid_when_they_come_into_force() {
    let dir = dir();
    let authority = Authority::new(dir.path(), "ours");
    let valid = |name: &str, from: i32, until: i32| {
        authority.sign_with(dir.path(), name, |params| {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
        })
    };
    let load = |identity| reloader().server("grpc", &plain(identity), &[]).map(drop);
    let error = |identity| load(identity).unwrap_err().to_string();
    assert!(load(valid("now", 2026, 2027)).is_ok());
    let expired = error(valid("expired", 2020, 2026));
    assert!(expired.contains("expired.crt: the certificate expired at 2026-01-01 00:00:00 UTC"), "{expired}");
    let early = error(valid("early", 2027, 2028));
    assert!(
        early.contains("early.crt: the certificate is not valid before 2027-01-01 00:00:00 UTC"),
        "{early}"
    );
}

#[test]
fn a_fault_is_one_line() {
    for fault in [Fault::Encrypted, Fault::Mismatch, Fault::Expired(Timestamp::from_micros(u64::MAX))] {
        assert!(!fault.to_string().contains('\n'), "{fault}");
    }
}
