//! Names the library as the real one is: who has opened this file gets it for `libcublasLt.so`, too.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-arg-cdylib=-Wl,-soname,libcublasLt.so");
    }
}
