//! tests/driver compiled again with a broken copy of src/cuda: seconds, where building the library anew takes minutes.
//!
//! With `cfg(engine_mutated)` tests/driver takes src/cuda as a module of its own, from a copy that lies beside it here; all else
//! comes from the library as it was built.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::list::{Mutation, cuda};
use crate::rebuild::{Outcome, copy_folder, run_tests};

pub struct Driver {
    /// A copy of tests/driver, what it includes, and src/cuda.
    folder: PathBuf,
    /// The libraries of cargo's build by the names of their crates.
    crates: BTreeMap<String, PathBuf>,
}

/// What tests/driver and src/cuda use.
const CRATES: [&str; 9] =
    ["cudarc", "engine", "half", "libloading", "rand", "rand_chacha", "serde_json", "sha2", "tempfile"];

/// Tests of whole steps: long, and run only where the others see nothing.
const LONG: &str = "training::";
/// The longest, which sees nothing that the others of its kind do not.
const LONGEST: &str = "twenty_steps";

impl Driver {
    /// From what cargo said as it built tests/driver, one JSON object a line.
    pub fn new() -> Self {
        let said = std::env::var("ENGINE_DRIVER_BUILD").expect("run scripts/mutate-cuda");
        let mut found = BTreeMap::<String, (Vec<u64>, PathBuf)>::new();
        for line in fs::read_to_string(said).unwrap().lines() {
            let artifact: Value = serde_json::from_str(line).unwrap();
            let name = artifact["target"]["name"].as_str().unwrap_or_default().replace('-', "_");
            let files = artifact["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let Some(library) = files.into_iter().find(|file| file.ends_with(".rlib")) else { continue };
            let id = artifact["package_id"].as_str().unwrap_or_default();
            let version = id.rsplit(['#', '@']).next().unwrap_or_default();
            let version: Vec<u64> = version.split('.').filter_map(|part| part.parse().ok()).collect();
            // Of two versions ours is the newer one.
            let kept = found.entry(name).or_default();
            if version >= kept.0 {
                *kept = (version, PathBuf::from(library));
            }
        }
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("mutations-driver");
        let wanted = |name: &str| Some((name.to_string(), found.get(name)?.1.clone()));
        Self { folder, crates: CRATES.into_iter().filter_map(wanted).collect() }
    }

    /// Runs tests/driver with the mutation, or without any.
    pub fn run(&self, mutation: Option<&Mutation>) -> (Outcome, Duration) {
        let binary = self.compile(mutation);
        let begin = Instant::now();
        let run = |arguments: &[&str], seconds| {
            run_tests(self.command(&binary).args(arguments), begin + Duration::from_secs(seconds))
        };
        let outcome = match run(&["--skip", LONG], 60) {
            Outcome::Passed => run(&[LONG, "--skip", LONGEST], 240),
            caught => caught,
        };
        (outcome, begin.elapsed())
    }

    fn command(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        let deps = self.crates["engine"].parent().unwrap();
        command.env("ENGINE_STAND_IN", deps).env("RUST_BACKTRACE", "0");
        command
    }

    fn compile(&self, mutation: Option<&Mutation>) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for part in ["tests/driver", "tests/model", "stand-in/driver/src", "src/cuda"] {
            fs::remove_dir_all(self.folder.join(part)).ok();
            copy_folder(&root.join(part), &self.folder.join(part));
        }
        if let Some(mutation) = mutation {
            fs::write(self.folder.join("src/cuda").join(&mutation.file), mutation.mutated().unwrap()).unwrap();
        }
        let binary = self.folder.join("driver-tests");
        let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        command.arg(self.folder.join("tests/driver/main.rs")).args(["--crate-name", "driver", "--test", "--edition"]);
        command.args(["2024", "--cap-lints", "allow", "--cfg", "engine_mutated", "--cfg", "engine_emulated", "-o"]);
        command.arg(&binary).arg("-L").arg(format!("dependency={}", self.crates["engine"].parent().unwrap().display()));
        command.arg(format!("-Cincremental={}", self.folder.join("incremental").display()));
        for (name, library) in &self.crates {
            command.arg("--extern").arg(format!("{name}={}", library.display()));
        }
        let output = command.output().unwrap();
        let what = mutation.map_or("no mutation", |mutation| &mutation.what);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}: does not compile:\n{said}");
        binary
    }
}

/// The mutations of src/cuda whose file or description contains `$ENGINE_MUTATE`; all without it.
pub fn chosen() -> Vec<Mutation> {
    crate::chosen(&cuda())
}
