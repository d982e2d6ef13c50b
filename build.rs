//! Build information for `--version`.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let (build, revision) = build_information();
    println!("cargo:rustc-env=TOLLGATE_BUILD={build}");
    println!("cargo:rustc-env=TOLLGATE_REVISION={revision}");
}

/// Commit, profile and target for `--version`, and the commit alone for metrics. Development builds have no
/// commit: they would be built anew with each one.
#[expect(clippy::disallowed_methods, reason = "cargo describes the build in these variables")]
fn build_information() -> (String, String) {
    let variable = |name| env::var(name).unwrap_or_default();
    // OUT_DIR is target/[triple/]PROFILE/build/PACKAGE/out; the variable PROFILE knows no profiles of ours.
    let out = PathBuf::from(variable("OUT_DIR"));
    let profile =
        out.iter().rev().nth(3).map_or_else(|| variable("PROFILE"), |name| name.to_string_lossy().into());
    let build = format!("profile {profile}, target {}", variable("TARGET"));
    if profile == "debug" {
        return (build, "unknown".to_owned());
    }
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    match git(&["log", "-1", "--format=%h, %cs"]) {
        Some(commit) => {
            let revision = commit.split(',').next().unwrap_or_default().to_owned();
            (format!("commit {commit}, {build}"), revision)
        }
        None => (build, "unknown".to_owned()),
    }
}

/// Output of git; `None` outside of a repository.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
