//! The generated protobuf code matches `proto/`.

use std::fs;
use std::path::Path;

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Services that tollgate serves, and that reflection shows.
const SERVICES: [&str; 2] =
    ["envoy/service/ratelimit/v3/rls.proto", "kuadrant/service/ratelimit/v1/rls.proto"];
/// Messages of management servers. Reflection shows none of them: the service does not serve them.
const DISCOVERY: [&str; 2] =
    ["envoy/service/discovery/v3/discovery.proto", "ratelimit/config/ratelimit/v3/rls_conf.proto"];
const ENTRY: &str = ".envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry";

/// Generates the code again, and replaces files that differ.
#[test]
fn the_generated_code_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compile = |files: &[&str]| protox::compile(files, [root.join("proto")]).expect("the files are right");
    let descriptors = compile(&[&SERVICES[..], &DISCOVERY].concat());
    let out = tempfile::tempdir().expect("a temporary directory");
    tonic_prost_build::configure()
        // `server::grpc` serves the methods from the bytes of their messages.
        .build_server(false)
        .bytes(".")
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code");
    let reflection = as_envoy_declares(compile(&SERVICES)).encode_to_vec();
    fs::write(out.path().join("reflection.bin"), reflection).expect("a file");
    let generated = root.join("proto/generated");
    let mut outdated = Vec::new();
    for entry in fs::read_dir(out.path()).expect("a directory") {
        let entry = entry.expect("a file");
        let kept = generated.join(entry.file_name());
        let fresh = fs::read(entry.path()).expect("a file");
        if fs::read(&kept).ok().as_ref() != Some(&fresh) {
            fs::write(&kept, fresh).expect("a file");
            outdated.push(entry.file_name());
        }
    }
    assert!(outdated.is_empty(), "these files were out of date and have been replaced: {outdated:?}");
}

/// `proto/` declares entries as `bytes`, Envoy's own files as `string`. Reflection shows `string`: with `bytes`, tools such as
/// grpcurl would require base64.
fn as_envoy_declares(mut set: FileDescriptorSet) -> FileDescriptorSet {
    fn entry_of(file: &mut FileDescriptorProto) -> Option<&mut DescriptorProto> {
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
