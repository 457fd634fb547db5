//! What a file compiles to, kept in `target/kernels` and named by a hash of all that it depends on: profiles, features,
//! clippy, docs and tests share it.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use crate::out_dir;

/// `work` on every item, by as many threads as cargo grants jobs; results in order.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
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

/// The text of files that others include.
pub fn texts(files: &[PathBuf]) -> Vec<(PathBuf, Vec<u8>)> {
    files.iter().map(|file| (file.clone(), fs::read(file).expect("a file of the kernels"))).collect()
}

/// The folder with what `command` makes of `file`: `object.o`, what the compiler `said`, and PTX where nvcc keeps some.
/// Compiles only when the file, `context` (headers, the compiler's version) or the command is new.
pub fn compiled(kind: &str, file: &Path, mut command: Command, context: impl Hash) -> PathBuf {
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
    } else {
        let new = store.join(format!(".{stem}{}", process::id()));
        fs::create_dir_all(&new).expect("the target folder can be written");
        if kind == "cuda" {
            command.args(["-keep", "-keep-dir"]).arg(&new);
        }
        compile(&mut command, file, &new);
        forget_old(&store, &stem);
        // Another build may have been faster; its result is as good.
        if fs::rename(&new, &folder).is_err() {
            fs::remove_dir_all(&new).ok();
        }
    }
    let said = fs::read_to_string(folder.join("said")).expect("what the compiler said");
    // nvcc's report of registers is no warning.
    for line in said.lines().filter(|line| kind == "emulated" || line.contains("warning")) {
        println!("cargo:warning={line}");
    }
    folder
}

/// Leaves the object, PTX, and what the compiler said in the folder `new`.
fn compile(command: &mut Command, file: &Path, new: &Path) {
    command.arg("-o").arg(new.join("object.o"));
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {:?}: {e}", command.get_program()));
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        fs::remove_dir_all(new).ok();
        panic!("{:?} failed on {}:\n{said}", command.get_program(), file.display());
    }
    fs::write(new.join("said"), &*said).expect("the target folder can be written");
    for entry in fs::read_dir(new).expect("it was just made").flatten() {
        if !["o", "ptx"].iter().any(|end| entry.path().extension().is_some_and(|e| e == *end))
            && entry.file_name() != "said"
        {
            fs::remove_file(entry.path()).ok(); // what nvcc keeps beside the PTX
        }
    }
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
