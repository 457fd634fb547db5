//! The output folder: never somebody else's, never half a model.

use std::fs;
use std::path::Path;

use engine::error::Error;
use engine::io::folder::{Existing, OutputFolder};
use engine::io::manifest::MARKER;
use engine::io::model_files::TokenizerFiles;
use engine::io::safetensors::read_model;
use engine::model::gemma3::config::Gemma3Config;
use engine::train::metrics::MetricsWriter;

use crate::tiny::{assert_fails, names, save, specs, tokenizer_folder, weights};

fn weights_in(folder: &Path) -> Vec<f32> {
    let mut out = vec![0.0; weights(1).len()];
    read_model(folder, &specs(), &mut out).unwrap();
    out
}

/// As a run that goes on: whatever is in the folder.
fn claim(path: &Path) -> Result<OutputFolder, Error> {
    OutputFolder::claim(path, Existing::Resume)
}

#[test]
fn a_folder_that_is_not_ours_is_refused_and_untouched() {
    let parent = tempfile::tempdir().unwrap();
    let foreign = parent.path().join("thesis");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("chapter-1.tex"), "precious").unwrap();
    for result in [OutputFolder::check(&foreign, Existing::Refuse), claim(&foreign).map(drop)] {
        assert_fails(result, &["thesis", "was not made by this program", "hint: "]);
    }
    assert_eq!(names(&foreign), ["chapter-1.tex"]);
    assert_eq!(names(parent.path()), ["thesis"]);
}

#[test]
fn a_file_and_the_current_folder_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_fails(OutputFolder::check(&file, Existing::Refuse), &["is a file"]);
    assert_fails(OutputFolder::check(Path::new("/"), Existing::Refuse), &["`/`"]);
    assert!(OutputFolder::check(Path::new("."), Existing::Refuse).is_err());
}

#[test]
fn checking_creates_nothing_and_claiming_creates_parents() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("runs/a");
    OutputFolder::check(&path, Existing::Refuse).unwrap();
    assert!(names(parent.path()).is_empty());
    let folder = claim(&path).unwrap();
    assert_eq!(folder.path(), path.canonicalize().unwrap());
    drop(folder);
    assert_eq!(names(&path), [MARKER]);
    assert_eq!(names(&parent.path().join("runs")), ["a"]);
    // An empty folder, and our own again, are fine too.
    fs::create_dir(parent.path().join("empty")).unwrap();
    claim(&parent.path().join("empty")).unwrap();
    claim(&path).unwrap();
}

#[test]
fn a_saved_folder_holds_every_file_that_transformers_asks_for() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let mut output = claim(&parent.path().join("out")).unwrap();
    save(&mut output, &source, &weights(1)).unwrap();
    let expected = [
        "chat_template.jinja",
        "config.json",
        MARKER,
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(output.path()), expected);
    assert_eq!(weights_in(output.path()), weights(1));
    assert_eq!(fs::read_to_string(output.path().join("chat_template.jinja")).unwrap(), "{{ messages }}");
    assert_eq!(Gemma3Config::load(output.path()).unwrap(), crate::tiny::config());
    assert_eq!(names(parent.path()), ["out", "source"]);
}

#[test]
fn saving_again_replaces_the_model_and_keeps_the_other_files() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    fs::write(source.join("tokenizer.model"), "old").unwrap();
    let mut output = claim(&parent.path().join("out")).unwrap();
    save(&mut output, &source, &weights(1)).unwrap();
    fs::remove_file(source.join("tokenizer.model")).unwrap();
    fs::write(output.path().join("notes.txt"), "mine").unwrap();
    fs::create_dir(output.path().join("checkpoint-5")).unwrap();
    fs::write(output.path().join("checkpoint-5/state"), "s").unwrap();

    save(&mut output, &source, &weights(2)).unwrap();
    assert_eq!(weights_in(output.path()), weights(2));
    assert_eq!(fs::read_to_string(output.path().join("notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(output.path().join("checkpoint-5/state")).unwrap(), "s");
    assert!(!output.path().join("tokenizer.model").exists(), "a file of the model before must not stay");
    assert_eq!(names(parent.path()), ["out", "source"]);
}

#[test]
fn a_model_can_be_saved_over_the_folder_it_came_from() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let mut output = claim(&parent.path().join("out")).unwrap();
    save(&mut output, &source, &weights(1)).unwrap();
    let itself = output.path().to_owned();
    save(&mut output, &itself, &weights(2)).unwrap();
    assert_eq!(weights_in(output.path()), weights(2));
    assert!(output.path().join("tokenizer.json").exists());
}

#[test]
fn a_failed_save_leaves_the_old_model_and_nothing_else() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let mut output = claim(&parent.path().join("out")).unwrap();
    save(&mut output, &source, &weights(1)).unwrap();
    let before = names(output.path());

    let mut diverged = weights(2);
    diverged[7] = f32::INFINITY;
    assert_fails(save(&mut output, &source, &diverged), &["is as it was", "model.embed_tokens.weight", "element 7"]);

    assert_eq!(names(output.path()), before);
    assert_eq!(weights_in(output.path()), weights(1));
    assert_eq!(names(parent.path()), ["out", "source"]);
}

#[test]
fn copies_of_read_only_files_are_writable() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let file = source.join("tokenizer.json");
    let mut permissions = fs::metadata(&file).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&file, permissions).unwrap();
    let mut output = claim(&parent.path().join("out")).unwrap();
    save(&mut output, &source, &weights(1)).unwrap();
    assert!(!fs::metadata(output.path().join("tokenizer.json")).unwrap().permissions().readonly());
}

/// Where a new `out` is made, and where the old one waits where folders cannot be exchanged.
const UNFINISHED: &str = ".tmp-out-aB3dE6";
const OLD: &str = ".old-out";

/// A saved model in a folder of this name beside `out`.
fn left_behind(parent: &Path, name: &str, seed: u64) {
    save(&mut claim(&parent.join("made")).unwrap(), &tokenizer_folder(parent), &weights(seed)).unwrap();
    fs::rename(parent.join("made"), parent.join(name)).unwrap();
}

#[test]
fn a_run_killed_after_the_exchange_keeps_its_new_model_and_gets_the_other_files() {
    let parent = tempfile::tempdir().unwrap();
    left_behind(parent.path(), "out", 2);
    left_behind(parent.path(), UNFINISHED, 1);
    fs::create_dir(parent.path().join(UNFINISHED).join("checkpoint-5")).unwrap();
    fs::write(parent.path().join(UNFINISHED).join("notes.txt"), "mine").unwrap();
    fs::write(parent.path().join(UNFINISHED).join("metrics.jsonl"), "of the old run").unwrap();
    let output = claim(&parent.path().join("out")).unwrap();
    assert_eq!(weights_in(output.path()), weights(2));
    assert_eq!(fs::read_to_string(output.path().join("notes.txt")).unwrap(), "mine");
    assert!(output.path().join("checkpoint-5").is_dir());
    assert!(!output.path().join("metrics.jsonl").exists(), "metrics of one run beside the model of another");
    assert_eq!(names(parent.path()), ["out", "source"]);
}

#[test]
fn a_run_killed_between_two_renames_gets_its_finished_model_back() {
    // Somebody may have made the folder again meanwhile.
    for made_again in [false, true] {
        let parent = tempfile::tempdir().unwrap();
        left_behind(parent.path(), UNFINISHED, 2);
        left_behind(parent.path(), OLD, 1);
        fs::write(parent.path().join(OLD).join("notes.txt"), "mine").unwrap();
        if made_again {
            fs::create_dir(parent.path().join("out")).unwrap();
        }
        let output = claim(&parent.path().join("out")).unwrap();
        assert_eq!(weights_in(output.path()), weights(2));
        assert!(output.path().join("notes.txt").exists());
        assert_eq!(names(parent.path()), ["out", "source"]);
    }
}

#[test]
fn the_old_model_comes_back_when_the_new_one_was_not_whole() {
    let parent = tempfile::tempdir().unwrap();
    left_behind(parent.path(), UNFINISHED, 2);
    left_behind(parent.path(), OLD, 1);
    let cut = parent.path().join(UNFINISHED).join("model.safetensors");
    fs::OpenOptions::new().write(true).open(&cut).unwrap().set_len(100).unwrap();
    fs::create_dir(parent.path().join("out")).unwrap();
    let output = claim(&parent.path().join("out")).unwrap();
    assert_eq!(weights_in(output.path()), weights(1));
    assert_eq!(names(parent.path()), ["out", "source"]);
    // The folder is still locked: the file that came back is the one that the lock is on.
    assert_fails(claim(output.path()), &["another run is writing to"]);
}

#[test]
fn what_is_beside_the_folder_and_not_ours_stays() {
    let parent = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join(MARKER), "{}").unwrap();
    fs::write(elsewhere.path().join("precious"), "x").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), parent.path().join(OLD)).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), parent.path().join(UNFINISHED)).unwrap();
    let others = [".tmp-out-2-aB3dE6", ".tmp-out-short", ".old-out-2"];
    for name in others {
        fs::create_dir(parent.path().join(name)).unwrap();
        fs::write(parent.path().join(name).join(MARKER), "{}").unwrap();
    }
    let unmarked = parent.path().join(".tmp-out-zzzzzz");
    fs::create_dir(&unmarked).unwrap();
    fs::write(unmarked.join("thesis.tex"), "x").unwrap();
    drop(claim(&parent.path().join("out")).unwrap());
    for name in others {
        assert!(parent.path().join(name).join(MARKER).exists(), "{name}");
    }
    assert!(unmarked.join("thesis.tex").exists());
    assert_eq!(names(elsewhere.path()), [MARKER, "precious"]);
}

#[test]
fn unfinished_checkpoints_go_and_one_that_waited_comes_back() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    drop(claim(&out).unwrap());
    for name in [".tmp-checkpoint-7-aB3dE6", ".old-checkpoint-5", ".old-checkpoint-6", "checkpoint-6"] {
        fs::create_dir(out.join(name)).unwrap();
    }
    fs::write(out.join(".tmp-aB3dE6"), "half a plot").unwrap();
    let output = claim(&out).unwrap();
    assert_eq!(names(&out), ["checkpoint-5", "checkpoint-6", MARKER]);
    let steps: Vec<u64> = output.checkpoints().unwrap().into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [5, 6]);
}

#[test]
fn one_run_at_a_time_and_a_lock_ends_with_its_run() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let mut first = claim(&parent.path().join("out")).unwrap();
    assert_fails(claim(&parent.path().join("out")), &["another run is writing to", "hint: "]);
    // The file that was locked is another one after a save.
    save(&mut first, &source, &weights(1)).unwrap();
    assert_fails(claim(&parent.path().join("out")), &["another run is writing to"]);
    drop(first);
    claim(&parent.path().join("out")).unwrap();
}

#[test]
fn a_model_or_checkpoints_are_refused_unless_the_run_may_have_them() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let out = parent.path().join("out");
    save(&mut claim(&out).unwrap(), &source, &weights(1)).unwrap();
    let hints = ["--overwrite-output-dir", "--resume-from-checkpoint"];
    assert_fails(OutputFolder::check(&out, Existing::Refuse), &["holds a model already", hints[0], hints[1]]);
    assert_fails(OutputFolder::claim(&out, Existing::Refuse), &["holds a model already"]);
    fs::create_dir(out.join("checkpoint-3")).unwrap();
    drop(OutputFolder::claim(&out, Existing::Resume).unwrap());
    assert!(out.join("checkpoint-3").exists());
    drop(OutputFolder::claim(&out, Existing::Overwrite).unwrap());
    assert!(!out.join("checkpoint-3").exists());
    assert_eq!(weights_in(&out), weights(1), "the old model stays until there is a new one");
    fs::remove_file(out.join("model.safetensors")).unwrap();
    fs::create_dir(out.join("checkpoint-3")).unwrap();
    assert_fails(OutputFolder::check(&out, Existing::Refuse), &["holds the checkpoints of a run already"]);
}

#[test]
fn links_in_the_folder_are_not_written_through() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    fs::create_dir(&out).unwrap();
    let precious = parent.path().join("precious");
    fs::write(&precious, "x").unwrap();
    std::os::unix::fs::symlink(&precious, out.join(MARKER)).unwrap();
    assert_fails(claim(&out), &["was not made by this program"]);
    fs::remove_file(out.join(MARKER)).unwrap();
    let output = claim(&out).unwrap();
    std::os::unix::fs::symlink(&precious, output.live("metrics.jsonl")).unwrap();
    MetricsWriter::create(&output.live("metrics.jsonl"), b"{}\n").unwrap();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "x");
    assert_eq!(fs::read_to_string(out.join("metrics.jsonl")).unwrap(), "{}\n");
}

#[test]
fn files_of_a_run_are_beside_its_own_model_only() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let mut output = claim(&parent.path().join("out")).unwrap();
    fs::write(output.live("metrics.jsonl"), "first").unwrap();
    assert_eq!(output.live("metrics.jsonl"), output.path().join("metrics.jsonl"));
    save_run(&mut output, &source, 1);
    fs::write(output.live("metrics.jsonl"), "second").unwrap();
    let kept = fs::read_to_string(output.path().join("metrics.jsonl")).unwrap();
    assert_eq!(kept, "first", "the old model's metrics stay while the new run goes on");
    save_run(&mut output, &source, 2);
    assert_eq!(fs::read_to_string(output.path().join("metrics.jsonl")).unwrap(), "second");
    assert_eq!(names(output.path()).iter().filter(|name| name.contains("metrics")).count(), 1);
}

fn save_run(output: &mut OutputFolder, source: &Path, seed: u64) {
    let files = output.run_files();
    crate::tiny::save_with(output, source, &weights(seed), &files).unwrap();
}

#[test]
fn a_tokenizer_file_that_is_a_link_out_of_the_model_is_refused_and_one_into_the_hubs_cache_is_not() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let secret = parent.path().join("id_rsa");
    fs::write(&secret, "secret").unwrap();
    std::os::unix::fs::symlink(&secret, source.join("added_tokens.json")).unwrap();
    assert_fails(TokenizerFiles::read(&source), &["added_tokens.json", "a link out of its folder", "id_rsa", "hint: "]);

    let model = parent.path().join("models--google--tiny");
    let snapshot = model.join("snapshots/0123");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir(model.join("blobs")).unwrap();
    fs::write(model.join("blobs/abc"), "{}").unwrap();
    std::os::unix::fs::symlink("../../blobs/abc", snapshot.join("tokenizer.json")).unwrap();
    TokenizerFiles::read(&snapshot).unwrap();
}

#[test]
fn what_a_save_needs_is_read_before() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let files = TokenizerFiles::read(&source).unwrap();
    fs::remove_dir_all(&source).unwrap();
    let mut output = claim(&parent.path().join("out")).unwrap();
    crate::tiny::save_files(&mut output, &files, &weights(1), &[]).unwrap();
    assert!(output.path().join("tokenizer.json").exists());
}

/// Set in the child process of [`a_full_disk_leaves_the_old_model`]: where it saves.
const CHILD_FOLDER: &str = "ENGINE_TEST_FULL_DISK";

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_old_model() {
    if let Ok(parent) = std::env::var(CHILD_FOLDER) {
        return save_and_fail(Path::new(&parent));
    }
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let mut output = claim(&parent.path().join("out")).unwrap();
    save(&mut output, &source, &weights(1)).unwrap();
    drop(output);

    // A file size limit fails a write halfway, as a full disk does, for one process only: this test once more.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" --exact folder::a_full_disk_leaves_the_old_model";
    let child = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD_FOLDER, parent.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(weights_in(&parent.path().join("out")), weights(1));
    assert_eq!(names(parent.path()), ["out", "source"]);
}

#[cfg(unix)]
fn save_and_fail(parent: &Path) {
    let mut output = claim(&parent.join("out")).unwrap();
    let result = save(&mut output, &parent.join("source"), &weights(2));
    assert_fails(result, &["is as it was", "model.safetensors", "hint: free some space"]);
}

#[test]
fn a_disk_without_room_for_the_model_is_refused_before_the_run() {
    let parent = tempfile::tempdir().unwrap();
    let folder = claim(&parent.path().join("out")).unwrap();
    OutputFolder::require_space(folder.path(), 1).unwrap();
    let error = OutputFolder::require_space(folder.path(), u64::MAX).unwrap_err().report();
    assert!(error.contains("MB free") && error.contains("hint: "), "{error}");
}
