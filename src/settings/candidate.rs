//! Conversion of the settings of candidate rules, which must not be in force already.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::reader::Reader;
use super::{CandidateSettings, RawSettings, StoreSettings};
use crate::engine::KeyFormat;
use crate::provider::Role;
use crate::provider::files::FileSettings;

/// Prefix of the keys of a candidate's counters, after `CACHE_KEY_PREFIX`.
const PREFIX: &str = "candidate/";

/// Settings of the candidate, if there is one.
pub(super) fn read(
    raw: &RawSettings,
    live_path: Option<&PathBuf>,
    live: &FileSettings,
    store: &StoreSettings,
    reader: &mut Reader,
) -> Option<CandidateSettings> {
    let path = PathBuf::from(raw.rules.candidate_config.as_ref()?);
    if live_path.is_some_and(|live| is_read_below(live, &path)) {
        let found = Some(path.to_string_lossy());
        reader.error(
            "CANDIDATE_CONFIG",
            "a path outside the rules path, since every rule file below it is in force",
            found.as_deref(),
        );
    }
    let prefix = format!("{}{PREFIX}", raw.counters.cache_key_prefix);
    Some(CandidateSettings {
        files: FileSettings { path, role: Role::Candidate, ..live.clone() },
        keys: store.key_writer(KeyFormat::Native, &prefix),
    })
}

/// True if the files at `path` are among the rules of `live`: some ancestor of `path` is below their path.
/// Links are followed and names that begin with a dot are skipped, as when rules are read.
fn is_read_below(live: &Path, path: &Path) -> bool {
    let (live, path) = (real(live), absolute(path));
    let is_passed_over = |part: &OsStr| part.as_encoded_bytes().starts_with(b".");
    let is_plain = |way: &Path| !way.iter().any(is_passed_over);
    path.ancestors().any(|part| {
        let (real, rest) = (real(part), path.strip_prefix(part));
        real.strip_prefix(&live).is_ok_and(is_plain) && rest.is_ok_and(is_plain)
    })
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// `path` with links and `..` resolved in its existing part.
fn real(path: &Path) -> PathBuf {
    let path = absolute(path);
    let there = path.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
    let Some((part, mut real)) = there else { return path };
    for component in path.strip_prefix(part).into_iter().flat_map(Path::components) {
        match component {
            Component::ParentDir => {
                real.pop();
            }
            Component::Normal(name) => real.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    real
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::engine::{KeyDomain, Limit, Unit};
    use crate::settings::tests::{read_well, refused};

    #[test]
    fn a_candidate_is_read_as_the_rules_are_and_counts_under_names_of_its_own() {
        assert!(read_well(&[]).candidate.is_none());
        let typed = [
            ("RULES_PATH", "rules"),
            ("CANDIDATE_CONFIG", "next"),
            ("MERGE_DOMAIN_CONFIG", "true"),
            ("CACHE_KEY_PREFIX", "p:"),
            ("CACHE_KEY_FORMAT", "envoyproxy"),
        ];
        let settings = read_well(&typed);
        let CandidateSettings { files, keys } = settings.candidate.expect("a candidate");
        assert_eq!((files.path.as_path(), files.role), (Path::new("next"), Role::Candidate));
        assert_eq!(files.compile, settings.rules.compile);
        let domain = KeyDomain { name: b"shop", hash_tag: None, only_limit: true };
        let key = keys.key(domain, &[], None, Limit::per(1, Unit::Minute));
        assert_eq!(key, "p:candidate/tg1/f60/4:shop,");
    }

    #[test]
    fn a_candidate_that_would_be_in_force_is_refused() {
        for (rules, candidate, is_refused) in [
            ("rules", "next", false),
            ("rules", "rules.next", false),
            ("rules/live", "rules", false),
            ("rules", "rules/.next", false),
            ("rules", "rules/next", true),
            ("rules", "./rules/next/one.yaml", true),
            ("rules/", "rules", true),
        ] {
            let refused = refused(&[("RULES_PATH", rules), ("CANDIDATE_CONFIG", candidate)]);
            assert_eq!(refused.contains(&"CANDIDATE_CONFIG"), is_refused, "{candidate} beside {rules}");
        }
    }

    #[test]
    fn a_candidate_path_that_links_or_dots_take_into_the_rules_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["rules/sub", "rules/.kept", "elsewhere/deep"] {
            fs::create_dir_all(at(name)).expect("a directory");
        }
        for (link, leads_to) in [
            ("current", "rules"),
            ("aside", "rules/sub"),
            ("rules/out", "elsewhere"),
            ("deep", "elsewhere/deep"),
            ("nowhere", "missing"),
        ] {
            symlink(at(leads_to), at(link)).expect("a link");
        }
        for (rules, candidate, is_refused) in [
            ("rules", "rules/sub", true),
            ("current", "rules/sub", true),
            ("current", "rules", true),
            ("rules", "current/sub/one.yaml", true),
            ("rules", "aside", true),
            ("rules", "aside/not/yet.yaml", true),
            ("rules", "elsewhere/../rules/sub", true),
            ("rules", "rules/../rules/sub", true),
            ("rules", "rules/sub/..", true),
            ("rules/../current", "aside", true),
            ("rules", "missing/../rules/next.yaml", true),
            ("missing/rules", "missing/more/../rules/next.yaml", true),
            // The reader follows the link too.
            ("rules", "rules/out", true),
            ("rules", "rules/out/deep", true),
            ("rules", "rules/sub/../out", true),
            ("rules", "elsewhere/deep", false),
            // Its parent is that of where it leads.
            ("rules", "deep/../rules/next", false),
            ("rules", "rules/../elsewhere", false),
            ("rules", "rules/sub/../../elsewhere", false),
            ("rules", "aside/../.kept", false),
            ("rules", "nowhere", false),
            ("aside", "rules", false),
            ("current", "rules.next", false),
        ] {
            let refused = refused(&[("RULES_PATH", &at(rules)), ("CANDIDATE_CONFIG", &at(candidate))]);
            assert_eq!(refused.contains(&"CANDIDATE_CONFIG"), is_refused, "{candidate} beside {rules}");
        }
    }

    #[test]
    fn a_candidate_s_keys_are_for_a_cluster_where_counters_are_in_one() {
        for (kind, is_for_cluster) in [("CLUSTER", true), ("SINGLE", false)] {
            let typed = [("REDIS_URL", "a:1"), ("REDIS_TYPE", kind), ("CANDIDATE_CONFIG", "next")];
            let settings = read_well(&typed);
            let keys = settings.candidate.expect("a candidate").keys;
            let found = [keys.is_for_cluster(), settings.keys.is_for_cluster()];
            assert_eq!(found, [is_for_cluster; 2], "{kind}");
        }
    }
}
