//! Compiles `proto/` without protoc: messages, the service, and the descriptors that gRPC reflection serves.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};

const SERVICE: &str = "envoy/service/ratelimit/v3/rls.proto";
const ENTRY: &str = ".envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rustc-env=TOLLGATE_BUILD={}", build_information());
    #[expect(
        clippy::disallowed_methods,
        reason = "cargo tells build scripts where to write by this variable"
    )]
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile([SERVICE], ["proto"])?;

    tonic_prost_build::configure()
        // `server::grpc` serves the one method there is from the bytes of its messages.
        .build_server(false)
        .bytes(".")
        .compile_fds(descriptors.clone())?;
    fs::write(out.join("reflection.bin"), as_envoy_declares(descriptors).encode_to_vec())?;
    Ok(())
}

/// Commit, profile and target for `--version`. Development builds have no commit: they would be built anew
/// with each one.
#[expect(clippy::disallowed_methods, reason = "cargo describes the build in these variables")]
fn build_information() -> String {
    let variable = |name| env::var(name).unwrap_or_default();
    // OUT_DIR is target/[triple/]PROFILE/build/PACKAGE/out; the variable PROFILE knows no profiles of ours.
    let out = PathBuf::from(variable("OUT_DIR"));
    let profile =
        out.iter().rev().nth(3).map_or_else(|| variable("PROFILE"), |name| name.to_string_lossy().into());
    let build = format!("profile {profile}, target {}", variable("TARGET"));
    if profile == "debug" {
        return build;
    }
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    match git(&["log", "-1", "--format=%h, %cs"]) {
        Some(commit) => format!("commit {commit}, {build}"),
        None => build,
    }
}

/// Output of git; `None` outside of a repository.
fn git(args: &[&str]) -> Option<String> {
    let output = std::process::Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// Entries are `bytes` to us and `string` in Envoy's own files, which is what tools such as grpcurl
/// expect to be told: they would ask for base64 otherwise.
fn as_envoy_declares(mut set: FileDescriptorSet) -> FileDescriptorSet {
    fn entry_of(file: &mut prost_types::FileDescriptorProto) -> Option<&mut DescriptorProto> {
        let package = file.package().to_owned();
        let descriptor = file.message_type.iter_mut().find(|m| m.name() == "RateLimitDescriptor")?;
        let entry = descriptor.nested_type.iter_mut().find(|m| m.name() == "Entry")?;
        (format!(".{package}.RateLimitDescriptor.{}", entry.name()) == ENTRY).then_some(entry)
    }
    for entry in set.file.iter_mut().filter_map(entry_of) {
        for field in &mut entry.field {
            field.set_type(Type::String);
        }
    }
    set
}
