//! Rules follow their files, in whatever way the files are edited, and no edit takes good rules out of force.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tempfile::TempDir;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tollgate::clock::ManualClock;
use tollgate::engine::rules::CompileOptions;
use tollgate::engine::{Entry, Rules, Timestamp};
use tollgate::provider::files::{FileProvider, FileProviderError, FileSettings};
use tollgate::provider::origin::Origin;
use tollgate::provider::publish::{PublishSettings, Publisher};
use tollgate::provider::{Handle, Role, Status};

use crate::support::PATIENCE;

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);
const NOW: Timestamp = Timestamp::from_secs(1_000_000);

const WRONG: &str = "domain: shop\ndescriptors:\n  - key: user\n    rate_limit: {unit: fortnight}\n";

/// A file of one domain with one rule for `key`.
fn rule(domain: &str, key: &str, requests_per_unit: u32) -> String {
    format!(
        "domain: {domain}\ndescriptors:\n  - key: {key}\n    rate_limit: {{unit: hour, requests_per_unit: \
         {requests_per_unit}}}\n"
    )
}

/// A running provider, its rules and its loads.
struct Provider {
    rules: Arc<ArcSwapOption<Rules>>,
    handle: Handle,
    status: watch::Receiver<Status>,
    good_loads: Arc<AtomicUsize>,
    bad_loads: Arc<AtomicUsize>,
    _running: JoinSet<Result<Infallible, FileProviderError>>,
}

impl Provider {
    /// A provider that does not look for changes by itself: only notifications of the kernel and reloads reach it.
    fn start(path: &Path) -> Self {
        Self::start_with(path, NEVER, CompileOptions::default())
    }

    fn start_with(path: &Path, poll_interval: Duration, compile: CompileOptions) -> Self {
        let rules = Arc::new(ArcSwapOption::empty());
        let (good_loads, bad_loads) = (Arc::default(), Arc::default());
        let counters: (Arc<AtomicUsize>, Arc<AtomicUsize>) =
            (Arc::clone(&good_loads), Arc::clone(&bad_loads));
        let settings = PublishSettings { role: Role::Live, compile, origins: vec![Origin::Files] };
        let count = move |status: &Status| {
            let counter = if status.error.is_none() { &counters.0 } else { &counters.1 };
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let clock = Arc::new(ManualClock::new(NOW));
        let publisher = Publisher::new(settings, Arc::clone(&rules), clock, Box::new(count));
        let wake = Arc::new(Notify::new());
        let handle = Handle::new(publisher.status(), vec![Arc::clone(&wake)]);
        let settings = FileSettings { path: path.to_owned(), role: Role::Live, compile, poll_interval };
        let provider = FileProvider::load(&settings, publisher, wake);
        let mut running = JoinSet::new();
        running.spawn(provider.run());
        let status = handle.status();
        Self { rules, handle, status, good_loads, bad_loads, _running: running }
    }

    /// Requests per unit for `key` in `domain`.
    fn limit(&self, domain: &str, key: &str) -> Option<u32> {
        let rules = self.rules.load();
        let entries = [Entry { key: key.as_bytes(), value: b"any" }];
        let found = rules.as_ref()?.domain(domain.as_bytes())?.find(&entries)?;
        found.rule.limits().first().map(|limit| limit.limit.requests_per_unit)
    }

    fn error(&self) -> Option<String> {
        self.status.borrow().error.as_ref().map(ToString::to_string)
    }

    fn loads(&self) -> (usize, usize) {
        (self.good_loads.load(Ordering::Relaxed), self.bad_loads.load(Ordering::Relaxed))
    }

    /// Waits until a load has made `promise` true.
    async fn reaches(&mut self, what: &str, promise: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !promise(self) {
                self.status.changed().await.expect("the provider runs");
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(outcome.is_ok(), "{what}: not within {PATIENCE:?}; {:?}", *self.status.borrow());
    }
}

fn dir_with(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        write(&dir.path().join(name), text);
    }
    dir
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    fs::write(path, text).expect("a file");
}

/// Writes `text` to `path` by renaming a new file, as many editors do.
fn replace(path: &Path, text: &str) {
    let aside = path.with_file_name(".aside");
    write(&aside, text);
    fs::rename(aside, path).expect("renamed");
}

/// Makes `link` point to `target`, in one step.
fn relink(link: &Path, target: &str) {
    let aside = link.with_file_name("..aside");
    symlink(target, &aside).expect("a link");
    fs::rename(aside, link).expect("renamed");
}

/// A directory as Kubernetes mounts a ConfigMap: the file is a link through `..data` into a dated directory.
fn config_map(dir: &Path, text: &str) {
    write(&dir.join("..2026_01/shop.yaml"), text);
    symlink("..2026_01", dir.join("..data")).expect("a link");
    symlink("..data/shop.yaml", dir.join("shop.yaml")).expect("a link");
}

#[tokio::test]
async fn rules_loaded_at_start_are_reported() {
    let dir = dir_with(&[("a.yaml", &rule("shop", "user", 5)), ("below/b.yml", &rule("api", "key", 7))]);
    let provider = Provider::start(dir.path());
    assert_eq!((provider.limit("shop", "user"), provider.limit("api", "key")), (Some(5), Some(7)));
    let status = provider.status.borrow().clone();
    let rules_hash = status.rules_hash;
    let expected =
        Status { domains: 2, rules: 2, loaded_at: Some(NOW), rules_hash, is_partial: false, error: None };
    assert_eq!(status, expected);
    assert!(rules_hash > 0 && rules_hash < 1 << 48, "{rules_hash}");
    assert_eq!(provider.loads(), (1, 0));
}

#[tokio::test]
async fn every_way_of_editing_takes_effect_without_a_reload() {
    type Edit = fn(&Path);
    let edits: [(&str, Edit, &str, Option<u32>); 8] = [
        ("in place", |dir| write(&dir.join("shop.yaml"), &rule("shop", "user", 9)), "shop", Some(9)),
        ("renamed over", |dir| replace(&dir.join("shop.yaml"), &rule("shop", "user", 9)), "shop", Some(9)),
        ("added", |dir| write(&dir.join("new.yaml"), &rule("new", "user", 9)), "new", Some(9)),
        ("added below", |dir| write(&dir.join("below/new.yaml"), &rule("new", "user", 9)), "new", Some(9)),
        ("added deeper", |dir| write(&dir.join("deep/er/new.YAML"), &rule("new", "user", 9)), "new", Some(9)),
        ("removed", |dir| fs::remove_file(dir.join("shop.yaml")).expect("removed"), "shop", None),
        ("removed below", |dir| fs::remove_dir_all(dir.join("below")).expect("removed"), "below", None),
        (
            "moved in",
            |dir| {
                write(&dir.join(".aside/new.yaml"), &rule("new", "user", 9));
                fs::rename(dir.join(".aside"), dir.join("aside")).expect("renamed");
            },
            "new",
            Some(9),
        ),
    ];
    for (what, edit, domain, limit) in edits {
        let (shop, below) = (rule("shop", "user", 5), rule("below", "user", 5));
        let dir = dir_with(&[("shop.yaml", &shop), ("below/b.yaml", &below)]);
        let mut provider = Provider::start(dir.path());
        edit(dir.path());
        provider.reaches(what, |now| now.limit(domain, "user") == limit).await;
        assert_eq!(provider.error(), None, "{what}");
    }
}

#[tokio::test]
async fn a_directory_that_is_added_later_is_watched_too() {
    let dir = dir_with(&[("below/a.yaml", &rule("shop", "user", 1))]);
    let below = dir.path().join("below");
    let mut provider = Provider::start(dir.path());
    for limit in [2, 4] {
        fs::remove_dir_all(&below).expect("removed");
        write(&below.join("a.yaml"), &rule("shop", "user", limit));
        provider.reaches("in a new directory", |now| now.limit("shop", "user") == Some(limit)).await;
        write(&below.join("a.yaml"), &rule("shop", "user", limit + 1));
        provider.reaches("edited there", |now| now.limit("shop", "user") == Some(limit + 1)).await;
    }
}

#[tokio::test]
async fn a_mounted_config_map_is_read_once_and_followed_when_it_is_swapped() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    config_map(dir.path(), &rule("shop", "user", 5));
    let mut provider = Provider::start(dir.path());
    // If the file were read twice, its domain would be a duplicate, which is an error.
    assert_eq!((provider.limit("shop", "user"), provider.error()), (Some(5), None));
    for (dated, limit) in [("..2026_02", 6), ("..2026_03", 7)] {
        write(&dir.path().join(dated).join("shop.yaml"), &rule("shop", "user", limit));
        relink(&dir.path().join("..data"), dated);
        provider.reaches("swapped", |now| now.limit("shop", "user") == Some(limit)).await;
    }
}

#[tokio::test]
async fn a_swapped_link_on_the_way_to_the_rules_is_followed() {
    let root = dir_with(&[
        ("v1/config/a.yaml", &rule("shop", "user", 1)),
        ("v2/config/a.yaml", &rule("shop", "user", 2)),
    ]);
    let current = root.path().join("current");
    symlink("v1", &current).expect("a link");
    let mut provider = Provider::start(&current.join("config"));
    assert_eq!(provider.limit("shop", "user"), Some(1));
    relink(&current, "v2");
    provider.reaches("swapped", |now| now.limit("shop", "user") == Some(2)).await;
    write(&root.path().join("v2/config/a.yaml"), &rule("shop", "user", 3));
    provider.reaches("edited behind the link", |now| now.limit("shop", "user") == Some(3)).await;
}

#[tokio::test]
async fn the_path_may_be_one_file() {
    let dir = dir_with(&[("rules.yaml", &rule("shop", "user", 1)), ("other.yaml", WRONG)]);
    let file = dir.path().join("rules.yaml");
    let mut provider = Provider::start(&file);
    assert_eq!((provider.limit("shop", "user"), provider.error()), (Some(1), None));
    write(&file, &rule("shop", "user", 2));
    provider.reaches("in place", |now| now.limit("shop", "user") == Some(2)).await;
    replace(&file, &rule("shop", "user", 3));
    provider.reaches("renamed over", |now| now.limit("shop", "user") == Some(3)).await;
    fs::remove_file(&file).expect("removed");
    provider.reaches("reported as missing", |now| now.error().is_some()).await;
    assert_eq!(provider.limit("shop", "user"), Some(3), "rules of an unreadable file stay in force");
}

#[tokio::test]
async fn only_yaml_files_without_a_leading_dot_are_rule_files() {
    let good = rule("shop", "user", 1);
    let names = [
        ".hidden.yaml",
        ".dir/a.yaml",
        "below/.a.yaml",
        "below/..data/a.yaml",
        "a.yaml~",
        ".a.swp",
        "README.txt",
        "below/notes",
        "a.yaml.bak",
        "yaml",
    ];
    let files: Vec<_> = names.map(|name| (name, WRONG)).into_iter().chain([("a.yaml", &*good)]).collect();
    let dir = dir_with(&files);
    let provider = Provider::start(dir.path());
    assert_eq!((provider.limit("shop", "user"), provider.error()), (Some(1), None));
}

#[tokio::test]
async fn a_file_with_two_names_is_read_once_and_circular_links_are_no_endless_loop() {
    let dir = dir_with(&[("a.yaml", &rule("shop", "user", 1)), ("below/b.yaml", &rule("api", "user", 2))]);
    symlink("a.yaml", dir.path().join("again.yaml")).expect("a link");
    symlink("below", dir.path().join("below_again")).expect("a link");
    symlink("..", dir.path().join("below/ring")).expect("a link");
    let provider = Provider::start(dir.path());
    assert_eq!((provider.status.borrow().domains, provider.error()), (2, None));
}

#[tokio::test]
async fn a_file_with_errors_keeps_its_last_good_version_and_does_not_affect_others() {
    let dir = dir_with(&[("a.yaml", &rule("shop", "user", 1)), ("b.yaml", &rule("api", "user", 1))]);
    let path = |name: &str| dir.path().join(name);
    let mut provider = Provider::start(dir.path());

    replace(&path("a.yaml"), WRONG);
    provider.reaches("reported", |now| now.error().is_some()).await;
    let error = provider.error().expect("an error");
    assert!(error.contains("a.yaml") && error.contains("fortnight"), "{error}");
    assert_eq!(provider.limit("shop", "user"), Some(1), "the last good text");

    replace(&path("b.yaml"), &rule("api", "user", 2));
    provider.reaches("the other file", |now| now.limit("api", "user") == Some(2)).await;
    assert_eq!((provider.limit("shop", "user"), provider.error()), (Some(1), Some(error)));

    replace(&path("a.yaml"), &rule("shop", "user", 3));
    provider.reaches("mended", |now| now.limit("shop", "user") == Some(3)).await;
    assert_eq!(provider.error(), None);
    assert_eq!(provider.loads(), (2, 2));
}

#[tokio::test]
async fn removing_a_file_with_errors_removes_its_last_good_rules() {
    let dir = dir_with(&[("a.yaml", &rule("shop", "user", 1)), ("b.yaml", &rule("api", "user", 1))]);
    let mut provider = Provider::start(dir.path());
    write(&dir.path().join("a.yaml"), WRONG);
    provider.reaches("reported", |now| now.error().is_some()).await;
    fs::remove_file(dir.path().join("a.yaml")).expect("removed");
    provider.reaches("removed", |now| now.error().is_none()).await;
    assert_eq!((provider.limit("shop", "user"), provider.limit("api", "user")), (None, Some(1)));
}

#[tokio::test]
async fn a_renamed_file_with_errors_keeps_the_rules_of_the_old_name() {
    let dir = dir_with(&[("a.yaml", &rule("shop", "user", 1)), ("b.yaml", &rule("api", "user", 1))]);
    let mut provider = Provider::start(dir.path());
    fs::remove_file(dir.path().join("a.yaml")).expect("removed");
    write(&dir.path().join("c.yaml"), WRONG);
    provider.reaches("reported", |now| now.error().is_some_and(|error| error.contains("c.yaml"))).await;
    assert_eq!(provider.limit("shop", "user"), Some(1));
    write(&dir.path().join("c.yaml"), &rule("shop", "user", 2));
    provider.reaches("mended", |now| now.limit("shop", "user") == Some(2)).await;
}

#[tokio::test]
async fn files_that_contradict_each_other_change_nothing() {
    let dir = dir_with(&[("a.yaml", &rule("shop", "user", 1)), ("b.yaml", &rule("api", "user", 1))]);
    let mut provider = Provider::start(dir.path());
    write(&dir.path().join("b.yaml"), &rule("shop", "ip", 2));
    provider
        .reaches("reported", |now| now.error().is_some_and(|error| error.contains("duplicate domain")))
        .await;
    let limits = [("shop", "user"), ("api", "user"), ("shop", "ip")].map(|(d, k)| provider.limit(d, k));
    assert_eq!(limits, [Some(1), Some(1), None]);

    let joined = CompileOptions { merge_domains: true, ..CompileOptions::default() };
    let provider = Provider::start_with(dir.path(), NEVER, joined);
    assert_eq!((provider.limit("shop", "user"), provider.limit("shop", "ip")), (Some(1), Some(2)));
}

#[tokio::test]
async fn at_start_good_files_are_in_force_and_without_one_there_are_no_rules() {
    let dir = dir_with(&[("a.yaml", WRONG), ("b.yaml", &rule("api", "user", 1))]);
    let provider = Provider::start(dir.path());
    assert_eq!((provider.limit("api", "user"), provider.error().is_some()), (Some(1), true));

    let dir = dir_with(&[("a.yaml", WRONG)]);
    let mut provider = Provider::start(dir.path());
    assert!(provider.rules.load().is_none() && provider.status.borrow().loaded_at.is_none());
    write(&dir.path().join("a.yaml"), &rule("shop", "user", 1));
    provider.reaches("mended", |now| now.limit("shop", "user") == Some(1)).await;

    let dir = tempfile::tempdir().expect("a temporary directory");
    let missing = dir.path().join("not/there");
    let mut provider = Provider::start(&missing);
    let error = provider.error().expect("an error");
    assert!(error.contains("not/there") && provider.rules.load().is_none(), "{error}");
    write(&missing.join("a.yaml"), &rule("shop", "user", 1));
    provider.reaches("the file was added", |now| now.limit("shop", "user") == Some(1)).await;
}

#[tokio::test]
async fn binary_and_oversized_files_are_errors_of_these_files_alone() {
    let dir = dir_with(&[("a.yaml", &rule("shop", "user", 1)), ("b.yaml", &rule("api", "user", 1))]);
    let mut provider = Provider::start(dir.path());
    fs::write(dir.path().join("a.yaml"), b"domain: \xff").expect("a file");
    provider.reaches("no text", |now| now.error().is_some_and(|error| error.contains("UTF-8"))).await;
    write(&dir.path().join("b.yaml"), &rule("api", "user", 2));
    provider.reaches("the other", |now| now.limit("api", "user") == Some(2)).await;
    let long = fs::File::create(dir.path().join("a.yaml")).expect("a file");
    long.set_len(1 << 30).expect("a sparse file");
    provider.reaches("too long", |now| now.error().is_some_and(|error| error.contains("larger"))).await;
    assert_eq!(provider.limit("shop", "user"), Some(1));
}

#[tokio::test]
async fn unchanged_files_cause_no_load() {
    let text = rule("shop", "user", 1);
    let dir = dir_with(&[("a.yaml", &text)]);
    let mut provider = Provider::start(dir.path());
    replace(&dir.path().join("a.yaml"), &text);
    provider.handle.reload();
    replace(&dir.path().join("a.yaml"), &text);
    replace(&dir.path().join("b.yaml"), &rule("api", "user", 1));
    provider.reaches("a change", |now| now.limit("api", "user") == Some(1)).await;
    assert_eq!(provider.loads(), (2, 0));
}

#[tokio::test]
async fn changes_without_kernel_events_are_found_by_polling() {
    let hidden = dir_with(&[("1.yaml", &rule("shop", "user", 1)), ("2.yaml", &rule("shop", "user", 2))]);
    let links = tempfile::tempdir().expect("a temporary directory");
    let link = links.path().join("link");
    let dir = tempfile::tempdir().expect("a temporary directory");
    // In a chain of links, only the first and the last one are watched.
    symlink(&link, dir.path().join("a.yaml")).expect("a link");
    let target = |name: &str| hidden.path().join(name).display().to_string();

    relink(&link, &target("1.yaml"));
    let mut provider = Provider::start(dir.path());
    relink(&link, &target("2.yaml"));
    provider.handle.reload();
    provider.reaches("after a reload", |now| now.limit("shop", "user") == Some(2)).await;

    let often = Duration::from_millis(20);
    let mut provider = Provider::start_with(dir.path(), often, CompileOptions::default());
    relink(&link, &target("1.yaml"));
    provider.reaches("in time", |now| now.limit("shop", "user") == Some(1)).await;
}

#[tokio::test]
async fn rules_that_stay_keep_their_counts() {
    let dir = dir_with(&[("a.yaml", &rule("shop", "user", 1))]);
    let mut provider = Provider::start(dir.path());
    let hit_counts = tollgate::engine::HitCounts { total_hits: 3, ..Default::default() };
    provider.rules.load().as_ref().expect("rules").counts().for_each(|(_, counts)| counts.add(&hit_counts));
    write(&dir.path().join("a.yaml"), &rule("shop", "user", 2));
    provider.reaches("edited", |now| now.limit("shop", "user") == Some(2)).await;
    let rules = provider.rules.load_full().expect("rules");
    let hits: Vec<_> = rules.counts().map(|(_, counts)| counts.sum().total_hits).collect();
    assert_eq!(hits, [3]);
}

/// A domain without its rules: valid YAML, as a file may be while it is being written.
const HALF_WRITTEN: &str = "domain: shop\ndescriptors:\n";

#[tokio::test]
async fn rules_that_disappear_stay_in_force_unless_the_file_has_an_empty_list() {
    type Edit = fn(&Path);
    let edits: [(&str, Edit); 6] = [
        ("deleted", |dir| fs::remove_file(dir.join("a.yaml")).expect("removed")),
        ("hidden", |dir| fs::rename(dir.join("a.yaml"), dir.join(".a.yaml")).expect("renamed")),
        ("no rule file", |dir| fs::rename(dir.join("a.yaml"), dir.join("a.txt")).expect("renamed")),
        ("half-written", |dir| replace(&dir.join("a.yaml"), HALF_WRITTEN)),
        ("a domain alone", |dir| replace(&dir.join("a.yaml"), "domain: shop\n")),
        ("limits nothing", |dir| replace(&dir.join("a.yaml"), "domain: shop\ndescriptors: [{key: user}]\n")),
    ];
    for (what, edit) in edits {
        let dir = dir_with(&[("a.yaml", &rule("shop", "user", 3))]);
        let mut provider = Provider::start(dir.path());
        edit(dir.path());
        provider.reaches(what, |now| now.error().is_some()).await;
        let error = provider.error().expect("an error");
        assert!(error.contains("every rule") && error.contains("'descriptors: []'"), "{what}: {error}");
        assert_eq!((provider.limit("shop", "user"), provider.loads()), (Some(3), (1, 1)), "{what}");

        replace(&dir.path().join("a.yaml"), &rule("shop", "user", 4));
        provider.reaches(what, |now| now.limit("shop", "user") == Some(4)).await;
        assert_eq!(provider.error(), None, "{what}");

        replace(&dir.path().join("a.yaml"), "domain: shop\ndescriptors: []\n");
        provider.reaches(what, |now| now.limit("shop", "user").is_none()).await;
        assert_eq!((provider.error(), provider.status.borrow().domains), (None, 1), "{what}");
    }
}

#[tokio::test]
async fn one_of_several_files_may_be_deleted_and_a_file_that_lost_its_rules_keeps_them() {
    let (shop, api) = (rule("shop", "user", 1), rule("api", "user", 1));
    let dir = dir_with(&[("a.yaml", &shop), ("b.yaml", &api)]);
    let mut provider = Provider::start(dir.path());
    write(&dir.path().join("a.yaml"), HALF_WRITTEN);
    provider.reaches("half-written", |now| now.error().is_some_and(|error| error.contains("a.yaml"))).await;
    write(&dir.path().join("b.yaml"), &rule("api", "user", 2));
    provider.reaches("the other", |now| now.limit("api", "user") == Some(2)).await;
    assert_eq!(provider.limit("shop", "user"), Some(1));

    fs::remove_file(dir.path().join("a.yaml")).expect("removed");
    provider.reaches("deleted", |now| now.error().is_none()).await;
    assert_eq!((provider.limit("shop", "user"), provider.limit("api", "user")), (None, Some(2)));

    write(&dir.path().join("c.yaml"), "domain: later\n");
    provider.reaches("never had rules", |now| now.status.borrow().domains == 2).await;
    assert_eq!(provider.error(), None);
    fs::remove_file(dir.path().join("b.yaml")).expect("removed");
    provider.reaches("the last rules", |now| now.error().is_some()).await;
    assert_eq!(provider.limit("api", "user"), Some(2));
}

#[tokio::test]
async fn at_start_no_rules_are_an_error_unless_a_file_has_an_empty_list() {
    for files in [&[][..], &[("a.yaml", HALF_WRITTEN)], &[("README.md", "# Rules")]] {
        let dir = dir_with(files);
        let mut provider = Provider::start(dir.path());
        let error = provider.error().expect("an error");
        assert!(error.contains("there are no rules"), "{files:?}: {error}");
        assert_eq!(provider.status.borrow().loaded_at, None, "{files:?}: not ready");
        write(&dir.path().join("a.yaml"), &rule("shop", "user", 1));
        provider.reaches("rules were added", |now| now.limit("shop", "user") == Some(1)).await;
    }
    let dir = dir_with(&[("a.yaml", "domain: shop\ndescriptors: []\n")]);
    let provider = Provider::start(dir.path());
    assert_eq!((provider.error(), provider.status.borrow().loaded_at), (None, Some(NOW)));
}

#[tokio::test]
async fn a_rule_file_that_becomes_a_special_file_keeps_its_rules_and_is_an_error() {
    type Make = fn(&Path);
    let kinds: [(&str, Make); 3] = [
        ("a FIFO", |path| {
            let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
            assert!(made.success());
        }),
        ("a socket", |path| drop(std::os::unix::net::UnixListener::bind(path).expect("a socket"))),
        ("a device", |path| symlink("/dev/zero", path).expect("a link")),
    ];
    for (kind, make) in kinds {
        let dir = dir_with(&[("a.yaml", &rule("shop", "user", 1)), ("b.yaml", &rule("api", "user", 1))]);
        let path = dir.path().join("a.yaml");
        let mut provider = Provider::start(dir.path());
        fs::remove_file(&path).expect("removed");
        make(&path);
        provider.reaches(kind, |now| now.error().is_some()).await;
        let error = provider.error().expect("an error");
        assert!(error.contains("a.yaml") && error.contains(kind), "{kind}: {error}");
        assert_eq!(provider.limit("shop", "user"), Some(1), "{kind}");

        let alone = Provider::start(&path);
        assert!(alone.error().is_some_and(|error| error.contains(kind)), "{kind}: as the path of the rules");
    }
}
