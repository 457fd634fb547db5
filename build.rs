//! Compiles `kernels/`: for the emulator with the host's C++ compiler, for CUDA with nvcc. Either may be missing; the
//! build then goes on without that device (`cfg(engine_emulated)`, `cfg(engine_cuda)`) and says so.
//!
//! `ENGINE_REQUIRE_CUDA=1` makes a missing nvcc an error. nvcc is looked for in `$NVCC`, `$CUDA_HOME/bin`, `PATH`, and
//! `.cuda/` (scripts/install-cuda-compiler). No GPU is needed to build.
//!
//! What a file compiles to is kept in `target/kernels`, named by a hash of all that it depends on: profiles, features,
//! clippy, docs and tests share it. `ENGINE_CUDA_REPORTS` tells tests where ptxas's reports and the PTX lie,
//! `ENGINE_EMULATED_COMPILER` how a kernel is compiled for the emulator.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

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
    match emulated() {
        Ok(()) => println!("cargo:rustc-cfg=engine_emulated"),
        Err(why) => println!("cargo:warning=built without the `emulated` device: {why}"),
    }
    for name in ["NVCC", "CUDA_HOME", "PATH", "ENGINE_REQUIRE_CUDA", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    match find_nvcc() {
        Ok((nvcc, version)) => {
            cuda(&nvcc, &version);
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
    let probe = out_dir().join("probe.cpp");
    let text = "#include <source_location>\n#include <sys/mman.h>\nauto here = std::source_location::current();\n";
    fs::write(&probe, text).expect("OUT_DIR can be written");
    let probed = kernel.clone().cargo_warnings(false).file(&probe).try_compile_intermediates();
    probed.map_err(|_| "no C++20 compiler (g++ or clang++) that knows -fsanitize=thread".to_string())?;
    let version = said_by(host.get_compiler().to_command().arg("--version")).unwrap_or_default();
    // For tests/mutations, which compiles kernels on its own.
    let compiler = kernel.get_compiler();
    let words = compiler.args().iter().map(|word| word.to_string_lossy());
    let command: Vec<_> = std::iter::once(compiler.path().to_string_lossy()).chain(words).collect();
    println!("cargo:rustc-env=ENGINE_EMULATED_COMPILER={}", command.join("\u{1f}"));
    let instrumented = sources("", "cu").into_iter().chain(sources("emulator", "cu")).map(|file| (file, &kernel));
    let plain = sources("emulator", "cpp").into_iter().map(|file| (file, &host));
    let headers = texts(&headers());
    let objects = in_parallel(&instrumented.chain(plain).collect::<Vec<_>>(), |(file, build)| {
        let mut command = build.get_compiler().to_command();
        command.arg("-c").arg(file);
        compiled("emulated", file, command, (&version, &headers)).join("object.o")
    });
    cc::Build::new().cpp(true).objects(objects).compile("engine_emulated");
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

fn texts(files: &[PathBuf]) -> Vec<(PathBuf, Vec<u8>)> {
    files.iter().map(|file| (file.clone(), fs::read(file).expect("a file of the kernels"))).collect()
}

/// What a command prints when it succeeds.
fn said_by(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The folder with what `command` makes of `file`: `object.o`, what the compiler `said`, and PTX where nvcc keeps some.
/// Compiles only when the file, `context` (headers, the compiler's version) or the command is new.
fn compiled(kind: &str, file: &Path, mut command: Command, context: impl Hash) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    (fs::read(file).expect("a source"), context).hash(&mut hasher);
    (command.get_program(), command.get_args().collect::<Vec<&OsStr>>()).hash(&mut hasher);
    let stem = format!("{}-", file.file_stem().expect("a file").to_string_lossy());
    // OUT_DIR is target/<profile>/build/engine-<hash>/out.
    let store = out_dir().ancestors().nth(4).expect("OUT_DIR lies in target").join("kernels").join(kind);
    let folder = store.join(format!("{stem}{:016x}", hasher.finish()));
    if folder.is_dir() {
        // Young things are in use: see `forget_old`.
        fs::File::open(&folder).and_then(|f| f.set_modified(SystemTime::now())).ok();
        return folder;
    }
    let new = store.join(format!(".{stem}{}", process::id()));
    fs::create_dir_all(&new).expect("the target folder can be written");
    command.arg("-o").arg(new.join("object.o"));
    if kind == "cuda" {
        command.args(["-keep", "-keep-dir"]).arg(&new);
    }
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {:?}: {e}", command.get_program()));
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        fs::remove_dir_all(&new).ok();
        panic!("{:?} failed on {}:\n{said}", command.get_program(), file.display());
    }
    fs::write(new.join("said"), &output.stderr).expect("the target folder can be written");
    if kind == "emulated" && !said.is_empty() {
        said.lines().for_each(|line| println!("cargo:warning={line}"));
    }
    for entry in fs::read_dir(&new).expect("it was just made").flatten() {
        if !["o", "ptx"].iter().any(|end| entry.path().extension().is_some_and(|e| e == *end))
            && entry.file_name() != "said"
        {
            fs::remove_file(entry.path()).ok(); // what nvcc keeps beside the PTX
        }
    }
    forget_old(&store, &stem);
    // Another build may have been faster; its result is as good.
    if fs::rename(&new, &folder).is_err() {
        fs::remove_dir_all(&new).ok();
    }
    folder
}

/// Removes what earlier versions of a file compiled to and no build of the last day used.
fn forget_old(store: &Path, stem: &str) {
    let day = Duration::from_secs(24 * 60 * 60);
    for entry in fs::read_dir(store).expect("the store").flatten() {
        let age = entry.metadata().and_then(|data| data.modified()).map(|time| time.elapsed().unwrap_or_default());
        if entry.file_name().to_string_lossy().starts_with(stem) && age.is_ok_and(|age| age > day) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// nvcc and its version, such as `13.0.88`; else why there is none.
fn find_nvcc() -> Result<(PathBuf, String), String> {
    let set = env::var_os("NVCC").map(PathBuf::from);
    let home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = home.into_iter().chain(env::split_paths(&path)).chain([PathBuf::from(".cuda/nvidia/cu13/bin")]);
    let found = set.or_else(|| folders.map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file()));
    let nvcc = found.ok_or("there is no nvcc")?;
    let said = said_by(Command::new(&nvcc).arg("--version")).ok_or(format!("`{}` does not run", nvcc.display()))?;
    let version = said.split(", V").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    // 12.0 is the first that knows C++20 and sm_90a.
    if number(version, 0) < 12 {
        Err(format!("`{}` is {version}, not 12.0 or newer", nvcc.display()))
    } else {
        Ok((nvcc, version.to_string()))
    }
}

/// Part `at` of a version; 0 where there is none.
fn number(version: &str, at: usize) -> u32 {
    version.split('.').nth(at).and_then(|part| part.parse().ok()).unwrap_or(0)
}

/// The kernels for real chips: machine code for sm_80 and sm_90a, and PTX for what comes after.
fn cuda(nvcc: &Path, version: &str) {
    let headers = texts(&headers());
    let flags = ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"].map(env::var_os);
    let can_compress = number(version, 0) * 100 + number(version, 1) >= 1208;
    let folders = in_parallel(&sources("", "cu"), |file| {
        let mut command = Command::new(nvcc);
        command.args(["-c", "-O3", "-std=c++20", "-Werror", "all-warnings", "-Xcompiler", "-fPIC", "-Xptxas", "-v"]);
        command.args(["-gencode", "arch=compute_80,code=sm_80", "-gencode", "arch=compute_90a,code=sm_90a"]);
        command.args(["-gencode", "arch=compute_80,code=compute_80", "-DENGINE_NAMESPACE=engine_cuda"]);
        if can_compress {
            command.arg("--compress-mode=size"); // to a fifth of the default
        }
        command.arg(file);
        compiled("cuda", file, command, (version, &headers, &flags))
    });
    cc::Build::new().cpp(true).objects(folders.iter().map(|folder| folder.join("object.o"))).compile("engine_cuda");
    let reports: String = folders.iter().map(|folder| format!("{}\n", folder.display())).collect();
    let list = out_dir().join("cuda_reports");
    fs::write(&list, format!("{version}\n{reports}")).expect("OUT_DIR can be written");
    println!("cargo:rustc-env=ENGINE_CUDA_REPORTS={}", list.display());
    // nvcc may be a link to where the libraries are.
    let real = nvcc.canonicalize().unwrap_or_else(|_| nvcc.to_path_buf());
    let root = real.parent().and_then(Path::parent).expect("nvcc lies in a folder `bin`");
    for folder in ["lib", "lib64", "targets/x86_64-linux/lib"].map(|folder| root.join(folder)) {
        if folder.join("libcudart_static.a").is_file() {
            println!("cargo:rustc-link-search=native={}", folder.display());
        }
    }
    println!("cargo:rustc-link-lib=static=cudart_static");
    for library in ["rt", "dl", "pthread"] {
        println!("cargo:rustc-link-lib={library}");
    }
}
