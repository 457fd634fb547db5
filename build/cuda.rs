//! The kernels for real chips, by nvcc. `ENGINE_CUDA_REPORTS` tells tests where ptxas's reports and the PTX lie.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{compiled, in_parallel, texts};
use crate::{headers, out_dir, said_by, sources};

/// What this reads of the environment.
pub const VARIABLES: [&str; 7] = [
    "NVCC",
    "CUDA_HOME",
    "PATH",
    "ENGINE_REQUIRE_CUDA",
    "ENGINE_KERNEL_WARNINGS",
    "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS",
];

/// Chips that get machine code, beside sm_90a. What nvcc does not know is left out: before 12.8 sm_100 and sm_120.
///
/// Machine code runs on later chips of the same major number, too: that for sm_86 on sm_89, for which nvcc makes the
/// very same, that for sm_100 on sm_103, that for sm_120 on sm_121. All of it comes from one PTX: a chip more costs a
/// run of ptxas.
const CHIPS: [&str; 4] = ["sm_80", "sm_86", "sm_100", "sm_120"];

pub struct Nvcc {
    path: PathBuf,
    /// Such as `13.0.88`.
    version: String,
}

/// The first nvcc that there is; else why there is none.
pub fn find_nvcc() -> Result<Nvcc, String> {
    let set = env::var_os("NVCC").map(PathBuf::from);
    let home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = home.into_iter().chain(env::split_paths(&path)).chain([PathBuf::from(".cuda/nvidia/cu13/bin")]);
    let found = set.or_else(|| folders.map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file()));
    let path = found.ok_or("there is no nvcc")?;
    let said = said_by(Command::new(&path).arg("--version")).ok_or(format!("`{}` does not run", path.display()))?;
    let version = said.split(", V").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    // 12.0 is the first that knows C++20 and sm_90a.
    if number(version, 0) < 12 {
        return Err(format!("`{}` is {version}, not 12.0 or newer", path.display()));
    }
    Ok(Nvcc { version: version.to_string(), path })
}

/// Part `at` of a version; 0 where there is none.
fn number(version: &str, at: usize) -> u32 {
    version.split('.').nth(at).and_then(|part| part.parse().ok()).unwrap_or(0)
}

impl Nvcc {
    /// A command that compiles a kernel: machine code for the chips, and PTX for those that none of it is for.
    fn command(&self, chips: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(["-c", "-O3", "-std=c++20", "-Xcompiler", "-fPIC", "-Xptxas", "-v"]);
        for chip in chips {
            command.args(["-gencode", &format!("arch=compute_80,code={chip}")]);
        }
        command.args(["-gencode", "arch=compute_80,code=compute_80", "-gencode", "arch=compute_90a,code=sm_90a"]);
        command.arg("-DENGINE_NAMESPACE=engine_cuda");
        if env::var("ENGINE_KERNEL_WARNINGS").is_ok_and(|value| value == "error") {
            command.args(["-Werror", "all-warnings"]);
        }
        if number(&self.version, 0) * 100 + number(&self.version, 1) >= 1208 {
            command.arg("--compress-mode=size"); // to a fifth of the default
        }
        command
    }

    /// Those of `CHIPS` that it knows.
    fn chips(&self) -> Vec<&'static str> {
        let known = said_by(Command::new(&self.path).arg("--list-gpu-code")).unwrap_or_default();
        CHIPS.into_iter().filter(|chip| known.lines().any(|line| line.trim() == *chip)).collect()
    }
}

/// A fault in a kernel ends the build.
pub fn build(nvcc: &Nvcc) {
    let headers = texts(&headers());
    let flags = ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"].map(env::var_os);
    let chips = nvcc.chips();
    let folders = in_parallel(&sources("", "cu"), |file| {
        let mut command = nvcc.command(&chips);
        command.arg(file);
        compiled("cuda", file, command, (&nvcc.version, &headers, &flags))
    });
    cc::Build::new().cpp(true).objects(folders.iter().map(|folder| folder.join("object.o"))).compile("engine_cuda");
    let reports: String = folders.iter().map(|folder| format!("{}\n", folder.display())).collect();
    let list = out_dir().join("cuda_reports");
    fs::write(&list, format!("{}\n{reports}", nvcc.version)).expect("OUT_DIR can be written");
    println!("cargo:rustc-env=ENGINE_CUDA_REPORTS={}", list.display());
    link_runtime(&nvcc.path);
}

/// Links the static runtime that lies beside nvcc.
fn link_runtime(nvcc: &Path) {
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
