//! A model folder is pushed to a hub, played by a server on localhost: what goes there, and what does not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use engine::error::Result;
use engine::hub::{Hub, Pushed, check_new_id};
use engine::io::folder::{Existing, OutputFolder};
use engine::io::run_files::ABOUT;
use engine::session::card::card;
use engine::session::publish::push_folder;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::hub::{download, hub};
use crate::standin::ID;
use crate::standin_upload::{Rules, UploadHub, serve_uploads};
use crate::tiny::{assert_fails, save, tokenizer_folder, weights};

/// Files of 1000 bytes are large and go in one piece.
pub const WHOLE: Rules = Rules { large: 1000, chunk: 0 };
/// They go in parts.
pub const PARTS: Rules = Rules { large: 1000, chunk: 700 };

/// A folder as a run leaves it, with things in it that are nobody else's.
pub fn trained() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let source = tokenizer_folder(parent.path());
    let path = parent.path().join("trained");
    let mut output = OutputFolder::claim(&path, Existing::Refuse).unwrap();
    save(&mut output, &source, &weights(1)).unwrap();
    drop(output);
    fs::write(path.join(ABOUT), about().to_string()).unwrap();
    fs::write(path.join("metrics.jsonl"), "{}\n").unwrap();
    fs::write(path.join("loss.svg"), "").unwrap();
    fs::create_dir(path.join("checkpoint-2")).unwrap();
    fs::write(path.join("checkpoint-2/model.safetensors"), "private").unwrap();
    for name in [".tmp-model", "notes.txt", "model.safetensors.part"] {
        fs::write(path.join(name), "private").unwrap();
    }
    fs::write(parent.path().join("secret"), "private").unwrap();
    symlink(parent.path().join("secret"), path.join("score_after.json")).unwrap();
    (parent, path)
}

fn about() -> Value {
    let strict =
        json!({"format_valid": 3, "name": 2, "arguments": 1, "exact": 1, "missing_call": 0, "spurious_call": 0});
    json!({
        "engine": "0.1.0", "model": "google/functiongemma-270m-it", "training_rows": 20, "steps": 7,
        "settings": {"dataset": "someone/rows", "learning_rate": 2e-5, "output_dir": "/home/me/trained"},
        "score_before": null, "score_after": {"correct": 2, "total": 4, "strict": strict},
    })
}

pub fn push(hub: &Hub, folder: &Path, private: bool) -> Result<Pushed> {
    push_folder(hub, folder, ID, private, &|| Ok(()))
}

/// Every file of a folder, links as what they lead to.
pub fn snapshot(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() && !path.is_symlink() {
            true => found.extend(snapshot(&path)),
            false => found.push((path.clone(), format!("{:?}{:?}", path.read_link().ok(), fs::read(&path).ok()))),
        }
    }
    found.sort();
    found
}

fn names(hub: &UploadHub) -> Vec<String> {
    hub.repository.lock().unwrap().files.keys().cloned().collect()
}

#[test]
fn what_was_pushed_is_downloaded_again_equal_to_the_byte() {
    for rules in [WHOLE, PARTS] {
        let (_parent, folder) = trained();
        let before = snapshot(&folder);
        let server = serve_uploads(rules, |_| None);
        let cache = tempfile::tempdir().unwrap();
        let hub = hub(&server.server.endpoint, cache.path());
        let pushed = push(&hub, &folder, false).unwrap();
        assert_eq!(pushed.page, format!("{}/{ID}", server.server.endpoint));
        assert_eq!(snapshot(&folder), before);
        let model = download(&hub).unwrap();
        for name in ["config.json", "tokenizer.json", "model.safetensors", "generation_config.json"] {
            assert!(fs::read(model.join(name)).unwrap() == fs::read(folder.join(name)).unwrap(), "{name}");
        }
        let repository = server.repository.lock().unwrap();
        assert!(repository.objects.values().any(|o| *o == fs::read(folder.join("model.safetensors")).unwrap()));
        assert_eq!(repository.files["loss.svg"], b"");
        assert_eq!(repository.commits.len(), 1);
        assert!(repository.created.as_ref().unwrap().get("visibility").is_none());
    }
}

#[test]
fn only_the_model_its_run_and_the_readme_are_pushed() {
    let (_parent, folder) = trained();
    let server = serve_uploads(WHOLE, |_| None);
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server.server.endpoint, cache.path());
    push(&hub, &folder, false).unwrap();
    let expected = [
        "README.md",
        "config.json",
        "generation_config.json",
        "loss.svg",
        "metrics.jsonl",
        "model.safetensors",
        "run.json",
        "tokenizer.json",
    ];
    let pushed: Vec<String> = names(&server).into_iter().filter(|name| !name.starts_with("chat_template")).collect();
    assert!(expected.iter().all(|name| pushed.iter().any(|other| other == name)), "{pushed:?}");
    let repository = server.repository.lock().unwrap();
    assert!(repository.files.values().all(|body| body != b"private"), "{:?}", repository.files.keys());
    for name in ["engine.json", "checkpoint-2/model.safetensors", "score_after.json", "notes.txt"] {
        assert!(!repository.files.contains_key(name), "{name}");
    }
}

#[test]
fn a_second_push_sends_no_large_file_again_and_the_folders_own_readme_stays() {
    let (_parent, folder) = trained();
    fs::write(folder.join("README.md"), "my own").unwrap();
    let server = serve_uploads(WHOLE, |_| None);
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server.server.endpoint, cache.path());
    push(&hub, &folder, false).unwrap();
    assert!(server.server.requests().iter().any(|request| request.method == "PUT"));
    push(&hub, &folder, false).unwrap();
    assert!(server.server.requests().iter().all(|request| request.method != "PUT"));
    assert_eq!(server.repository.lock().unwrap().files["README.md"], b"my own");
    assert_eq!(server.repository.lock().unwrap().commits.len(), 2);
}

#[test]
fn private_is_private_and_a_public_model_is_not_taken_for_one() {
    let (_parent, folder) = trained();
    let server = serve_uploads(WHOLE, |_| None);
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server.server.endpoint, cache.path());
    for _ in 0..2 {
        push(&hub, &folder, true).unwrap();
    }
    assert_eq!(server.repository.lock().unwrap().created.as_ref().unwrap()["visibility"], "private");

    let server = serve_uploads(WHOLE, |_| None);
    let hub = crate::hub::hub(&server.server.endpoint, cache.path());
    push(&hub, &folder, false).unwrap();
    assert_fails(push(&hub, &folder, true), &["exists and is not private", "nothing was pushed", "hint: "]);
    assert_eq!(server.repository.lock().unwrap().commits.len(), 1);
}

#[test]
fn a_folder_that_is_no_model_or_has_changed_is_refused_before_anything_is_sent() {
    let (parent, folder) = trained();
    let server = serve_uploads(WHOLE, |_| None);
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server.server.endpoint, cache.path());
    assert_fails(push(&hub, &parent.path().join("none"), false), &["none` is no model folder", "hint: "]);
    assert_fails(push(&hub, parent.path(), false), &["is no model folder", "engine.json"]);
    let marker = folder.join("engine.json");
    let good = fs::read_to_string(&marker).unwrap();
    for (name, said) in [("../secret", "names `../secret`"), (".tmp-model", "names `.tmp-model`"), ("", "names ``")] {
        let mut manifest: Value = serde_json::from_str(&good).unwrap();
        manifest["files"][name] = json!({"bytes": 7, "sha256": "0"});
        fs::write(&marker, manifest.to_string()).unwrap();
        assert_fails(push(&hub, &folder, false), &["is damaged", said]);
    }
    fs::write(&marker, r#"{"made_by": "engine", "version": "0.1.0"}"#).unwrap();
    assert_fails(push(&hub, &folder, false), &["holds no model", "model.safetensors"]);
    fs::write(&marker, &good).unwrap();
    let config = fs::read(folder.join("config.json")).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    assert_fails(push(&hub, &folder, false), &["config.json` is not as it was written", "hint: "]);
    fs::remove_file(folder.join("config.json")).unwrap();
    symlink(parent.path().join("secret"), folder.join("config.json")).unwrap();
    assert_fails(push(&hub, &folder, false), &["cannot read `", "config.json"]);
    fs::remove_file(folder.join("config.json")).unwrap();
    fs::write(folder.join("config.json"), config).unwrap();
    fs::write(folder.join(ABOUT), "{").unwrap();
    assert_fails(push(&hub, &folder, false), &["run.json` is damaged", "hint: "]);
    assert!(server.server.requests().is_empty());
    fs::write(folder.join("README.md"), "mine").unwrap();
    push(&hub, &folder, false).unwrap();
}

#[test]
fn the_card_says_what_the_model_is_and_how_it_scores() {
    let text = card(&about(), "me/my-model").unwrap();
    let (header, rest) = text.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    let header: Value = serde_saphyr::from_str(header).unwrap();
    assert_eq!(header["base_model"], "google/functiongemma-270m-it");
    assert_eq!(header["license"], "gemma");
    assert_eq!(header["library_name"], "transformers");
    assert_eq!(header["pipeline_tag"], "text-generation");
    assert_eq!(header["datasets"], json!(["someone/rows"]));
    assert!(header["tags"].as_array().unwrap().contains(&json!("function-calling")));
    assert!(rest.contains("| tool choice |  | 2 |"), "{rest}");
    assert!(
        rest.contains("20 training rows, 7 steps") && rest.contains("engine generate --model me/my-model"),
        "{rest}"
    );
    assert!(!text.contains("/home/me"), "{text}");
    let plain = card(&Value::Null, "me/my-model").unwrap();
    assert!(plain.starts_with("---\nlibrary_name: transformers\n") && !plain.contains("gemma"), "{plain}");
}

#[test]
fn text_of_users_cannot_leave_its_place_in_the_card() {
    let hostile = "x\n---\n# Owned\n<script>alert(1)</script> | ![a](http://evil/a.png) [b](c) `d` \u{202e}\u{2028}";
    let mut run = about();
    run["model"] = format!("/models/gemma: {hostile}").replace("://", ":").into();
    run["engine"] = hostile.into();
    run["settings"]["dataset"] = "evil/rows: [x]\nlicense: mit".into();
    run["settings"]["lr_scheduler_type"] = hostile.into();
    let text = card(&run, "me/my-model").unwrap();
    let (header, rest) = text.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    let header: Value = serde_saphyr::from_str(header).unwrap();
    assert_eq!((&header["base_model"], &header["datasets"]), (&Value::Null, &Value::Null));
    for bad in ["\n---", "\n# Owned", "<script", "![", "[b](", "`d`", "\u{202e}", "\u{2028}"] {
        assert!(!rest.contains(bad), "{bad:?} in {rest}");
    }
    let row = rest.lines().find(|line| line.starts_with("| `lr_scheduler_type`")).unwrap();
    assert_eq!(row.replace("\\|", "").matches('|').count(), 3, "{row}");
}

#[test]
fn names_that_the_hub_would_not_take_are_usage_errors() {
    for id in ["me/model", "Me_1/model-v1.2", "o/n"] {
        check_new_id(id).unwrap();
    }
    let long = format!("me/{}", "a".repeat(94));
    for id in [
        "model", "", "/model", "me/", "me/a/b", "me/a b", "me/.a", "me/a.", "me/-a", "me/a--b", "me/a..b", "me/a.git",
        &long,
    ] {
        let error = check_new_id(id).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{id}");
        assert_fails(Err::<(), _>(error), &["is no name for a model of the hub", "hint: "]);
    }
}
