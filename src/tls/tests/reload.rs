//! Every way to replace files.

use std::os::unix::fs::symlink;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::*;

/// More than a reload needs, on any machine.
const PATIENCE: Duration = Duration::from_secs(20);

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}, but it does not come");
        sleep(Duration::from_millis(10)).await;
    }
}

fn in_place(from: &Path, to: &Path) {
    fs::write(to, fs::read(from).unwrap()).unwrap();
}

fn rename(from: &Path, to: &Path) {
    let aside = to.with_extension("new");
    fs::copy(from, &aside).unwrap();
    fs::rename(aside, to).unwrap();
}

/// Files of a mounted Secret: `tls.crt` is a link to `..data/tls.crt`, and `..data` a link to a directory.
struct Secret {
    dir: TempDir,
    versions: usize,
}

impl Secret {
    fn new(files: [&Path; 3]) -> Self {
        let mut secret = Self { dir: dir(), versions: 0 };
        secret.swap(files);
        for name in Self::NAMES {
            symlink(Path::new("..data").join(name), secret.dir.path().join(name)).unwrap();
        }
        secret
    }

    const NAMES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn identity(&self) -> Identity {
        Identity { certificate: self.path("tls.crt"), key: self.path("tls.key") }
    }

    /// Replaces all files at once, as a kubelet does.
    fn swap(&mut self, files: [&Path; 3]) {
        self.versions += 1;
        let version = format!("..version_{}", self.versions);
        fs::create_dir(self.path(&version)).unwrap();
        for (name, file) in Self::NAMES.iter().zip(files) {
            fs::copy(file, self.path(&version).join(name)).unwrap();
        }
        symlink(&version, self.path("..data_tmp")).unwrap();
        fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
    }
}

#[tokio::test]
async fn replaced_files_are_used_by_the_next_handshake_of_clients_and_servers() {
    for replace in [in_place, rename] {
        let dir = dir();
        let (before, after) = (Authority::new(dir.path(), "before"), Authority::new(dir.path(), "after"));
        let used = Authority::new(dir.path(), "used");
        in_place(&before.certificate, &used.certificate);
        let identity = before.sign(dir.path(), "localhost");
        let next =
            after.sign_with(dir.path(), "next", |params| params.subject_alt_names = vec![dns("localhost")]);

        let reloader = reloader();
        let (client, server) =
            live(&reloader, &used.client(Some(identity.clone())), &used.server(identity.clone(), &[]));
        tokio::spawn(Arc::clone(&reloader).run());
        assert_eq!(shake_hands(&client, &server).await, Ok(()));

        let strict = self::reloader().client("xds", &after.client(Some(next.clone())), &[b"h2"]).unwrap();
        assert!(shake_hands(&strict, &server).await.is_err());
        for (from, to) in [
            (&after.certificate, &used.certificate),
            (&next.certificate, &identity.certificate),
            (&next.key, &identity.key),
        ] {
            replace(from, to);
        }
        eventually("the server has the new files", async || shake_hands(&strict, &server).await.is_ok())
            .await;
        eventually("the client has them too", async || shake_hands(&client, &server).await.is_ok()).await;
    }
}

#[tokio::test]
async fn a_swapped_secret_is_used_by_the_next_handshake_of_clients_and_servers() {
    let dir = dir();
    let (before, after) = (Authority::new(dir.path(), "before"), Authority::new(dir.path(), "after"));
    let (old, new) = (
        before.sign(dir.path(), "localhost"),
        after.sign_with(dir.path(), "new", |params| {
            params.subject_alt_names = vec![dns("localhost")];
        }),
    );
    let mut secret = Secret::new([&before.certificate, &old.certificate, &old.key]);
    let reloader = reloader();
    let client = ClientTls {
        ca: Some(secret.path("ca.crt")),
        identity: Some(secret.identity()),
        verify_hostname: true,
    };
    let clients = Some(ClientAuth { ca: secret.path("ca.crt"), names: Vec::new(), is_optional: false });
    let server = ServerTls { identity: secret.identity(), clients };
    let (mut client, server) = live(&reloader, &client, &server);
    tokio::spawn(Arc::clone(&reloader).run());
    let strict = self::reloader().client("xds", &after.client(Some(new.clone())), &[b"h2"]).unwrap();
    assert!(shake_hands(&strict, &server).await.is_err());
    for _ in 0..3 {
        secret.swap([&after.certificate, &new.certificate, &new.key]);
        client.changed().await;
        eventually("the server has the new files", async || shake_hands(&strict, &server).await.is_ok())
            .await;
        assert_eq!(shake_hands(&client, &server).await, Ok(()));

        secret.swap([&before.certificate, &old.certificate, &old.key]);
        client.changed().await;
        eventually("the server has the old files", async || shake_hands(&strict, &server).await.is_err())
            .await;
        assert_eq!(shake_hands(&client, &server).await, Ok(()));
    }
    assert!(reloader.statuses().iter().all(|status| status.failures == 0), "{reloader:?}");
}

#[tokio::test]
async fn invalid_files_keep_the_last_good_ones_and_are_reported_once() {
    let dir = dir();
    let ours = Authority::new(dir.path(), "ours");
    let identity = ours.sign(dir.path(), "localhost");
    let other = ours.sign(dir.path(), "other");
    let reloader = reloader();
    let (client, server) = live(&reloader, &ours.client(None), &plain(identity.clone()));
    let good = fs::read(&identity.certificate).unwrap();
    let status = |reloader: &Reloader| reloader.statuses().pop().unwrap();

    for (invalid, failures) in [(&b"hunter2"[..], 1), (&fs::read(&other.certificate).unwrap(), 2)] {
        fs::write(&identity.certificate, invalid).unwrap();
        // However often it is looked at.
        (0..3).for_each(|_| reloader.reload());
        let found = status(&reloader);
        assert_eq!((found.failures, found.reloads, found.last_reload_successful), (failures, 0, false));
        assert_eq!(shake_hands(&client, &server).await, Ok(()));
    }
    fs::remove_file(&identity.certificate).unwrap();
    reloader.reload();
    assert_eq!(status(&reloader).failures, 3);

    fs::write(&identity.certificate, good).unwrap();
    reloader.reload();
    let found = status(&reloader);
    assert_eq!((found.failures, found.reloads, found.last_reload_successful), (3, 0, true));
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_comes_into_force_later() {
    let dir = dir();
    let authority = Authority::new(dir.path(), "ours");
    let identity = authority.sign(dir.path(), "localhost");
    let next = authority.sign_with(dir.path(), "next", |params| {
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2031, 1, 1);
    });
    let now = Arc::new(crate::clock::ManualClock::new(Timestamp::from_secs(1_795_000_000)));
    let clock = Arc::clone(&now);
    let reloader = Reloader::new(move || crate::clock::Clock::now(&*clock));
    let server = reloader.server("grpc", &plain(identity.clone()), &[]).unwrap();
    in_place(&next.certificate, &identity.certificate);
    in_place(&next.key, &identity.key);
    reloader.reload();
    assert!(!reloader.statuses()[0].last_reload_successful);
    now.set(Timestamp::from_secs(1_900_000_000));
    reloader.reload();
    let status = &reloader.statuses()[0];
    assert!(status.last_reload_successful && status.reloads == 1, "{status:?}");
    assert_eq!(status.certificates[0].not_after, Timestamp::from_secs(1_924_992_000));
    drop(server);
}
