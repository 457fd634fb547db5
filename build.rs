//! Compiles `kernels/`: for the emulator with the host's C++ compiler, for CUDA with nvcc. Either may be missing; the
//! build then goes on without that device (`cfg(engine_emulated)`, `cfg(engine_cuda)`) and says so.
//!
//! `ENGINE_REQUIRE_CUDA=1` makes a missing nvcc an error. nvcc is looked for in `$NVCC`, `$CUDA_HOME/bin`, `PATH`, and
//! `.cuda/` (scripts/install-cuda-compiler). No GPU is needed to build.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rustc-check-cfg=cfg(engine_emulated)");
    println!("cargo:rustc-check-cfg=cfg(engine_cuda)");
    match emulated() {
        Ok(()) => println!("cargo:rustc-cfg=engine_emulated"),
        Err(why) => println!("cargo:warning=built without the `emulated` device: {why}"),
    }
    for name in ["NVCC", "CUDA_HOME", "PATH", "ENGINE_REQUIRE_CUDA"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    match find_nvcc() {
        Some(nvcc) => {
            cuda(&nvcc);
            println!("cargo:rustc-cfg=engine_cuda");
        }
        None if env::var("ENGINE_REQUIRE_CUDA").is_ok_and(|value| value == "1") => {
            panic!("ENGINE_REQUIRE_CUDA=1, but there is no nvcc: run scripts/install-cuda-compiler, or set NVCC");
        }
        None => {}
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

/// The kernels on the emulator. An error when the C++ compiler cannot do it at all; a fault in a kernel ends the build.
fn emulated() -> Result<(), String> {
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os != "linux") {
        return Err("the emulator knows Linux only".to_string());
    }
    let mut host = cc::Build::new();
    host.cpp(true).std("c++20").opt_level(2).warnings(false).define("ENGINE_NAMESPACE", "engine_emulated");
    // No contraction: one rounding per operation, on every processor. `.cu` is C++ to this compiler.
    host.flag("-ffp-contract=off").flag("-x").flag("c++");
    // The accesses of kernels are checked by the emulator (kernels/emulator/memory.cpp), which replaces the runtime.
    let mut kernel = host.clone();
    kernel.flag("-fsanitize=thread").flag("-Wall").flag("-Wno-unknown-pragmas");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let probe = out.join("probe.cpp");
    fs::write(
        &probe,
        "#include <source_location>\n#include <sys/mman.h>\nauto here = std::source_location::current();\n",
    )
    .expect("OUT_DIR can be written");
    let probed = kernel.clone().cargo_warnings(false).file(&probe).try_compile_intermediates();
    probed.map_err(|_| "no C++20 compiler (g++ or clang++) that knows -fsanitize=thread".to_string())?;
    let instrumented = sources("", "cu").into_iter().chain(sources("emulator", "cu")).map(|file| (file, &kernel));
    let plain = sources("emulator", "cpp").into_iter().map(|file| (file, &host));
    let objects = in_parallel(&instrumented.chain(plain).collect::<Vec<_>>(), |(file, build)| {
        (*build).clone().file(file).compile_intermediates()
    });
    let mut library = cc::Build::new();
    library.cpp(true).objects(objects.into_iter().flatten()).compile("engine_emulated");
    Ok(())
}

/// `work` on every item, by as many threads as cargo grants jobs; results in order.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            match items.get(i) {
                Some(item) => done.push((i, work(item))),
                None => return done,
            }
        }
    };
    let mut results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a compiler job")).collect::<Vec<_>>()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

fn find_nvcc() -> Option<PathBuf> {
    if let Some(nvcc) = env::var_os("NVCC") {
        return Some(nvcc.into());
    }
    let home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = home.into_iter().chain(env::split_paths(&path)).chain([PathBuf::from(".cuda/nvidia/cu13/bin")]);
    folders.map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file())
}

/// The kernels for real chips: machine code for sm_80 and sm_90a, and PTX for what comes after.
fn cuda(nvcc: &Path) {
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("cuda");
    fs::create_dir_all(&out).expect("OUT_DIR can be written");
    let objects = in_parallel(&sources("", "cu"), |file| {
        let object = out.join(file.file_name().expect("a file")).with_extension("o");
        let mut command = Command::new(nvcc);
        command.args(["-c", "-O3", "-std=c++20", "-Werror", "all-warnings", "-Xcompiler", "-fPIC"]);
        command.args(["-gencode", "arch=compute_80,code=sm_80", "-gencode", "arch=compute_90a,code=sm_90a"]);
        command.args(["-gencode", "arch=compute_80,code=compute_80", "-DENGINE_NAMESPACE=engine_cuda"]);
        let output = command.arg("-o").arg(&object).arg(file).output();
        let output = output.unwrap_or_else(|e| panic!("cannot run `{}`: {e}", nvcc.display()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "nvcc failed on {}:\n{said}", file.display());
        object
    });
    cc::Build::new().cpp(true).objects(objects).compile("engine_cuda");
    let root = nvcc.parent().and_then(Path::parent).expect("nvcc lies in a folder `bin`");
    for folder in ["lib", "lib64", "targets/x86_64-linux/lib"].map(|folder| root.join(folder)) {
        if folder.join("libcudart_static.a").is_file() {
            println!("cargo:rustc-link-search=native={}", folder.canonicalize().expect("it exists").display());
        }
    }
    println!("cargo:rustc-link-lib=static=cudart_static");
    for library in ["rt", "dl", "pthread"] {
        println!("cargo:rustc-link-lib={library}");
    }
}
