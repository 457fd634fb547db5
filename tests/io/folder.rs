//! The output folder: never somebody else's, never half a model.

use std::fs;
use std::path::Path;

use engine::io::folder::{MARKER, OutputFolder};
use engine::io::safetensors::read_model;
use engine::model::gemma3::config::Gemma3Config;

use crate::tiny::{assert_fails, names, save, specs, tokenizer_folder, weights};

fn weights_in(folder: &Path) -> Vec<f32> {
    let mut out = vec![0.0; weights(1).len()];
    read_model(folder, &specs(), &mut out).unwrap();
    out
}

/// A process id that no process has.
const GONE: u32 = u32::MAX - 7;

#[test]
fn a_folder_that_is_not_ours_is_refused_and_untouched() {
    let parent = tempfile::tempdir().unwrap();
    let foreign = parent.path().join("thesis");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("chapter-1.tex"), "precious").unwrap();
    for result in [OutputFolder::check(&foreign), OutputFolder::claim(&foreign).map(drop)] {
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
    assert_fails(OutputFolder::check(&file), &["is a file"]);
    assert_fails(OutputFolder::check(Path::new("/")), &["`/`"]);
    assert!(OutputFolder::check(Path::new(".")).is_err());
}

#[test]
fn checking_creates_nothing_and_claiming_creates_parents() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("runs/a");
    OutputFolder::check(&path).unwrap();
    assert!(names(parent.path()).is_empty());
    let folder = OutputFolder::claim(&path).unwrap();
    assert_eq!(folder.path(), path.canonicalize().unwrap());
    assert_eq!(names(&path), [MARKER]);
    assert_eq!(names(&parent.path().join("runs")), ["a"]);
    // An empty folder, and our own again, are fine too.
    fs::create_dir(parent.path().join("empty")).unwrap();
    OutputFolder::claim(&parent.path().join("empty")).unwrap();
    OutputFolder::claim(&path).unwrap();
}

#[test]
fn a_saved_folder_holds_every_file_that_transformers_asks_for() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let output = OutputFolder::claim(&parent.path().join("out")).unwrap();
    save(&output, &source, &weights(1)).unwrap();
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
    let output = OutputFolder::claim(&parent.path().join("out")).unwrap();
    save(&output, &source, &weights(1)).unwrap();
    fs::remove_file(source.join("tokenizer.model")).unwrap();
    fs::write(output.path().join("metrics.jsonl"), "{}\n").unwrap();
    fs::create_dir(output.path().join("checkpoint-5")).unwrap();
    fs::write(output.path().join("checkpoint-5/state"), "s").unwrap();

    save(&output, &source, &weights(2)).unwrap();
    assert_eq!(weights_in(output.path()), weights(2));
    assert_eq!(fs::read_to_string(output.path().join("metrics.jsonl")).unwrap(), "{}\n");
    assert_eq!(fs::read_to_string(output.path().join("checkpoint-5/state")).unwrap(), "s");
    assert!(!output.path().join("tokenizer.model").exists(), "a file of the model before must not stay");
    assert_eq!(names(parent.path()), ["out", "source"]);
}

#[test]
fn a_model_can_be_saved_over_the_folder_it_came_from() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let output = OutputFolder::claim(&parent.path().join("out")).unwrap();
    save(&output, &source, &weights(1)).unwrap();
    save(&output, output.path(), &weights(2)).unwrap();
    assert_eq!(weights_in(output.path()), weights(2));
    assert!(output.path().join("tokenizer.json").exists());
}

#[test]
fn a_failed_save_leaves_the_old_model_and_nothing_else() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let output = OutputFolder::claim(&parent.path().join("out")).unwrap();
    save(&output, &source, &weights(1)).unwrap();
    let before = names(output.path());

    let mut diverged = weights(2);
    diverged[7] = f32::INFINITY;
    assert_fails(save(&output, &source, &diverged), &["is as it was", "model.embed_tokens.weight", "element 7"]);
    fs::remove_file(source.join("tokenizer.json")).unwrap();
    assert_fails(save(&output, &source, &weights(2)), &["is as it was", "tokenizer.json"]);

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
    let output = OutputFolder::claim(&parent.path().join("out")).unwrap();
    save(&output, &source, &weights(1)).unwrap();
    assert!(!fs::metadata(output.path().join("tokenizer.json")).unwrap().permissions().readonly());
}

#[test]
fn claiming_finishes_the_swap_of_a_killed_run() {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let path = parent.path().join("out");
    let output = OutputFolder::claim(&path).unwrap();
    save(&output, &source, &weights(1)).unwrap();
    fs::write(path.join("metrics.jsonl"), "{}\n").unwrap();
    let old = parent.path().join(format!(".old-out-{GONE}"));
    let unfinished = parent.path().join(format!(".tmp-out-{GONE}"));

    // Killed between the two renames: the folder is away.
    fs::rename(&path, &old).unwrap();
    fs::create_dir(&unfinished).unwrap();
    OutputFolder::claim(&path).unwrap();
    assert_eq!(weights_in(&path), weights(1));
    assert!(path.join("metrics.jsonl").exists());
    assert_eq!(names(parent.path()), ["out", "source"]);

    // Killed after them: the new model is in place, the other files are not.
    fs::rename(&path, &old).unwrap();
    save(&OutputFolder::claim(&parent.path().join("new")).unwrap(), &source, &weights(2)).unwrap();
    fs::rename(parent.path().join("new"), &path).unwrap();
    OutputFolder::claim(&path).unwrap();
    assert_eq!(weights_in(&path), weights(2));
    assert!(path.join("metrics.jsonl").exists());
    assert_eq!(names(parent.path()), ["out", "source"]);
}

#[test]
fn leftovers_of_other_folders_and_living_processes_are_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let others = [format!(".tmp-out-2-{GONE}"), ".tmp-out-x".to_string(), ".tmp-out-1".to_string()];
    for name in &others {
        fs::create_dir(parent.path().join(name)).unwrap();
    }
    OutputFolder::claim(&parent.path().join("out")).unwrap();
    for name in &others {
        assert!(parent.path().join(name).exists(), "{name}");
    }
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
    let output = OutputFolder::claim(&parent.path().join("out")).unwrap();
    save(&output, &source, &weights(1)).unwrap();

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
    assert_eq!(weights_in(output.path()), weights(1));
    assert_eq!(names(parent.path()), ["out", "source"]);
}

#[cfg(unix)]
fn save_and_fail(parent: &Path) {
    let output = OutputFolder::claim(&parent.join("out")).unwrap();
    let result = save(&output, &parent.join("source"), &weights(2));
    assert_fails(result, &["is as it was", "model.safetensors", "hint: free some space"]);
}

#[test]
fn a_disk_without_room_for_the_model_is_refused_before_the_run() {
    let parent = tempfile::tempdir().unwrap();
    let folder = OutputFolder::claim(&parent.path().join("out")).unwrap();
    folder.require_space(1).unwrap();
    let error = folder.require_space(u64::MAX).unwrap_err().report();
    assert!(error.contains("MB free") && error.contains("hint: "), "{error}");
}
