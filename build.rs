//! Compiles `proto/` without protoc: messages, the service, their proto3 JSON form, and the
//! descriptors that gRPC reflection serves.

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
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(descriptors.clone())?;
    // In JSON an entry is text, not base64: `pb.rs` writes that one by hand.
    pbjson_build::Builder::new()
        .register_descriptors(&descriptors.encode_to_vec())?
        .exclude([ENTRY])
        .build(&[".envoy"])?;
    fs::write(out.join("reflection.bin"), as_envoy_declares(descriptors).encode_to_vec())?;
    Ok(())
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
