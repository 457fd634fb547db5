//! The kernels on the emulator, by the host's C++ compiler. `ENGINE_EMULATED_COMPILER` tells tests how one is compiled.

use std::env;
use std::fs;

use crate::cache::{compiled, in_parallel, texts};
use crate::{headers, out_dir, said_by, sources};

/// An error when the C++ compiler cannot do it at all; a fault in a kernel ends the build.
pub fn build() -> Result<(), String> {
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
