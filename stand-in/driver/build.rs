//! Names the library as the real one is: who has opened this file gets it for `libcuda.so`, too.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-cdylib=-Wl,-soname,libcuda.so");
}
