//! Hubble's messages and service as Rust, from `proto/`, without protoc; and their descriptors, for reading and reflection.

use std::path::Path;

use prost::Message;

fn main() {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"]).expect("proto/ is there");
    compiler.include_imports(true).open_files(["observer/observer.proto"]).expect("proto/ is sound");
    let out = std::env::var_os("OUT_DIR").expect("cargo says where");
    let files = compiler.file_descriptor_set();
    std::fs::write(Path::new(&out).join("hubble.bin"), files.encode_to_vec()).expect("OUT_DIR is ours");
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .client_mod_attribute("observer", "#[cfg(test)]")
        .codec_path("crate::hubble::wire::Codec")
        .compile_fds_with_config(files, config)
        .expect("proto/ can be written as Rust");
}
