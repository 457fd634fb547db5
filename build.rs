//! Compiles `kernels/`: for the emulator with the host's C++ compiler (`build/emulator.rs`), for CUDA with nvcc
//! (`build/cuda.rs`). Either may be missing; the build then goes on without that device (`cfg(engine_emulated)`,
//! `cfg(engine_cuda)`) and says so. What a file compiles to is kept for the next build (`build/cache.rs`).
//!
//! `ENGINE_REQUIRE_CUDA=1` makes a missing nvcc an error. nvcc is looked for in `$NVCC`, `$CUDA_HOME/bin`, `PATH`, and
//! `.cuda/` (scripts/install-cuda-compiler). No GPU is needed to build. `ENGINE_KERNEL_WARNINGS=error` makes nvcc's
//! warnings errors, as CI wants it: a newer nvcc may have new ones.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "build/cache.rs"]
mod cache;
#[path = "build/cuda.rs"]
mod cuda;
#[path = "build/emulator.rs"]
mod emulator;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for file in [("", "cu"), ("emulator", "cu"), ("emulator", "cpp")].iter().flat_map(|(at, end)| sources(at, end)) {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    for header in headers() {
        println!("cargo:rerun-if-changed={}", header.display());
    }
    println!("cargo:rustc-check-cfg=cfg(engine_emulated)");
    println!("cargo:rustc-check-cfg=cfg(engine_cuda)");
    println!("cargo:rustc-check-cfg=cfg(engine_mutated)"); // tests/driver
    match emulator::build() {
        Ok(()) => println!("cargo:rustc-cfg=engine_emulated"),
        Err(why) => println!("cargo:warning=built without the `emulated` device: {why}"),
    }
    for name in cuda::VARIABLES {
        println!("cargo:rerun-if-env-changed={name}");
    }
    match cuda::find_nvcc() {
        Ok(nvcc) => {
            cuda::build(&nvcc);
            println!("cargo:rustc-cfg=engine_cuda");
        }
        Err(why) if env::var("ENGINE_REQUIRE_CUDA").is_ok_and(|value| value == "1") => {
            panic!("ENGINE_REQUIRE_CUDA=1, but {why}: run scripts/install-cuda-compiler, or set NVCC");
        }
        Err(why) => {
            println!("cargo:warning=built without the `cuda` device: {why} (scripts/install-cuda-compiler gets one)")
        }
    }
}

/// The files below `kernels/<folder>` with this ending, sorted.
fn sources(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new("kernels").join(folder)).expect("the folder of the kernels");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of it").path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == ending));
    files.sort();
    files
}

fn headers() -> Vec<PathBuf> {
    [("", "cuh"), ("", "h"), ("emulator", "h")].iter().flat_map(|(folder, ending)| sources(folder, ending)).collect()
}

/// Cargo's folder for what this build writes.
fn out_dir() -> PathBuf {
    PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"))
}

/// What a command prints when it succeeds.
fn said_by(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
