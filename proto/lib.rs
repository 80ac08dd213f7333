//! The gRPC contract of Drumline: messages, clients and server traits generated from `proto/drumline/v1`.
//!
//! The transport is left out, so that a client chooses its own; the SDK and the server use tonic's.

/// The bindings of package `drumline.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("drumline.v1");
}

/// The encoded `FileDescriptorSet` of every proto file, for server reflection and dynamic clients.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/drumline.bin"));
