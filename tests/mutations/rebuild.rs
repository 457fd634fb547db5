//! tests/ops linked again with other objects: seconds, where building the crate anew takes a minute.
//!
//! The linker takes the kernels from an archive, and only for symbols that no object defines: an object that stands before
//! it on the command line replaces the archive's.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::list::{Mutation, kernels};

/// How a run of tests ended.
pub enum Outcome {
    Passed,
    /// The first test that failed.
    Failed(String),
    Crashed(ExitStatus),
    /// It did not end in time.
    Hung,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => write!(f, "all tests pass"),
            Self::Failed(test) => write!(f, "{test}"),
            Self::Crashed(status) => write!(f, "{status}"),
            Self::Hung => write!(f, "does not end"),
        }
    }
}

pub struct Rebuild {
    /// The shell command that links tests/ops.
    link: String,
    folder: PathBuf,
}

impl Rebuild {
    /// From the command that scripts/mutate-kernels kept. A cargo within `cargo test` has another PATH, and would
    /// build everything anew. Each job has a folder.
    pub fn new(job: u32) -> Self {
        let link = std::env::var("ENGINE_TESTS_LINK").expect("run scripts/mutate-kernels");
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("mutations-{job}"));
        fs::create_dir_all(&folder).unwrap();
        Self { link: fs::read_to_string(link).unwrap(), folder }
    }

    /// The objects of a mutation's sources. It must compile: what does not breaks nothing.
    pub fn compile(&self, mutation: &Mutation) -> Vec<PathBuf> {
        let copy = self.folder.join("kernels");
        fs::remove_dir_all(&copy).ok();
        copy_folder(&kernels(), &copy);
        fs::write(copy.join(&mutation.file), mutation.mutated().unwrap()).unwrap();
        let object = |source: &String| {
            let object = self.folder.join(source).with_extension("o");
            let mut words = env!("ENGINE_EMULATED_COMPILER").split('\u{1f}');
            let mut command = Command::new(words.next().unwrap());
            command.args(words).arg("-c").arg(copy.join(source)).arg("-o").arg(&object);
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}, {}: does not compile:\n{said}", mutation.file, mutation.what);
            object
        };
        mutation.sources.iter().map(object).collect()
    }

    /// Runs the tests whose names contain one of `tests`, with these objects in place of those of the build.
    pub fn run(&self, objects: &[PathBuf], tests: &[String], limit: Duration) -> (Outcome, Duration) {
        let binary = self.folder.join("ops-tests");
        let line = with_objects(&self.link, objects, &binary);
        let output = Command::new("sh").arg("-c").arg(line).output().unwrap();
        assert!(output.status.success(), "the linker says:\n{}", String::from_utf8_lossy(&output.stderr));
        let begin = Instant::now();
        let mut command = Command::new(&binary);
        command.args(tests).args(HOST_ALONE.iter().flat_map(|name| ["--skip", name]));
        command.env("ENGINE_TEST_DEVICE", "emulated").env("RUST_BACKTRACE", "0");
        let outcome = run_tests(&mut command, begin + limit);
        (outcome, begin.elapsed())
    }
}

/// The command with these objects before all others, and another output.
fn with_objects(link: &str, objects: &[PathBuf], output: &Path) -> String {
    let (before, after) = link.split_once("\"-o\" \"").expect("an output");
    let after = after.split_once('"').expect("its end").1;
    let link = format!("{before}\"-o\" \"{}\"{after}", output.display());
    let first = link[..link.find(".o\"").expect("an object")].rfind('"').expect("its beginning");
    let objects: String = objects.iter().map(|object| format!("\"{}\" ", object.display())).collect();
    format!("{}{objects}{}", &link[..first], &link[first..])
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

/// Tests that run on the host alone, whatever the kernels do.
const HOST_ALONE: [&str; 3] = ["the_gradient_equals", "the_values_equal", "f32_on_the_host"];

/// Runs the tests of a command until the first one fails or the time is over.
pub fn run_tests(command: &mut Command, end: Instant) -> Outcome {
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, receiver) = channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let ended = loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) if line.ends_with("... FAILED") => {
                break Some(Outcome::Failed(line.split(' ').nth(1).unwrap_or_default().to_string()));
            }
            Ok(line) => assert!(!line.starts_with("running 0 tests"), "{command:?} runs no test"),
            Err(RecvTimeoutError::Timeout) => break Some(Outcome::Hung),
            Err(RecvTimeoutError::Disconnected) => break None,
        }
    };
    if ended.is_some() {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    ended.unwrap_or(if status.success() { Outcome::Passed } else { Outcome::Crashed(status) })
}
