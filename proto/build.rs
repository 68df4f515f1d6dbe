//! Makes Rust of the protobuf files, without a protoc.

use std::path::PathBuf;
use std::{env, fs};

const FILES: [&str; 7] = [
    "ebbtide/v1/common.proto",
    "ebbtide/v1/telemetry.proto",
    "ebbtide/v1/enrolment.proto",
    "ebbtide/v1/fleet.proto",
    "ebbtide/v1/device.proto",
    "ebbtide/v1/plan.proto",
    "ebbtide/v1/control.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("ebbtide.v1.binpb"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
