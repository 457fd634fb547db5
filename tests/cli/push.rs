//! `engine push` and `engine train --push-to-hub`, against a hub on this machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::standin::{Request, reply};
use crate::standin_upload::{Rules, UploadHub, serve_uploads};
use crate::{Run, engine, path, run, train_command};

const ID: &str = "me/tiny";

fn hub(special: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> UploadHub {
    serve_uploads(Rules { large: 1 << 16, chunk: 1 << 20 }, special)
}

/// Runs it with this hub and a token, and with no other setting of a hub.
fn with(mut command: Command, endpoint: &str) -> Run {
    for name in ["HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_HUB_DOWNLOAD_TIMEOUT"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", endpoint).env("HF_TOKEN", "hf_secret").env("HF_HOME", "/nonexistent");
    command.output().unwrap().into()
}

fn push(folder: &Path, endpoint: &str, extra: &[&str]) -> Run {
    let mut command = engine();
    command.args(["push", &path(folder), "--hub-model-id", ID]).args(extra);
    with(command, endpoint)
}

#[test]
fn a_run_is_pushed_when_it_is_done_and_can_be_pushed_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let hub = hub(|_| None);
    let trained =
        with(train_command(&out, &["--push-to-hub", "--hub-model-id", ID, "--hub-private"]), &hub.server.endpoint);
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    assert_eq!(trained.stdout.lines().last(), Some(&*format!("{}/{ID}", hub.server.endpoint)));
    let again = push(&out, &hub.server.endpoint, &["--hub-private"]);
    assert_eq!((again.code, &*again.stdout), (0, &*trained.stdout), "{}", again.stderr);
    let repository = hub.repository.lock().unwrap();
    for name in ["model.safetensors", "run.json", "report.html", "metrics.jsonl", "config.json", "tokenizer.json"] {
        assert!(repository.files[name] == fs::read(out.join(name)).unwrap(), "{name}");
    }
    let card = String::from_utf8(repository.files["README.md"].clone()).unwrap();
    assert!(card.contains("| `max_steps` | 2 |"), "{card}");
    assert!(!out.join("README.md").exists() && !repository.files.contains_key("engine.json"));
    assert!(repository.files.keys().all(|name| !name.contains("checkpoint")));
    assert_eq!(repository.created.as_ref().unwrap()["visibility"], "private");
}

#[test]
fn what_could_not_be_pushed_is_refused_before_anything_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let hub = hub(|_| None);
    for (flags, token, said) in [
        (&["--push-to-hub"][..], "hf_secret", "`--push-to-hub` needs a name"),
        (&["--push-to-hub", "--hub-model-id", "tiny"], "hf_secret", "`tiny` is no name for a model of the hub"),
        (&["--push-to-hub", "--hub-model-id", ID], "", "there is no token"),
    ] {
        let mut command = train_command(&out, flags);
        command.env("HF_TOKEN", token).env("HF_HOME", folder.path()).env("HF_ENDPOINT", &hub.server.endpoint);
        let refused: Run = command.output().unwrap().into();
        assert_eq!(refused.code, 2, "{flags:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(said) && refused.stderr.contains("hint: "), "{}", refused.stderr);
        assert!(!out.exists());
    }
    assert!(hub.server.requests().is_empty());
    assert_eq!(run(&["push", &path(&out)]).code, 2);
}

#[test]
fn a_push_that_fails_loses_nothing_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let refusing = hub(|request| request.path.contains("/commit/").then(|| reply(403, "", b"{}")));
    let flags = ["--push-to-hub", "--hub-model-id", ID];
    let trained = with(train_command(&out, &flags), &refusing.server.endpoint);
    assert_eq!(trained.code, 1, "{}", trained.stderr);
    let later = format!("`engine push {} --hub-model-id {ID}` does that later", path(&out));
    for said in [&*later, "may not write to `me/tiny`", "HTTP status 403", "hint: "] {
        assert!(trained.stderr.contains(said), "{}", trained.stderr);
    }
    assert!(!trained.stderr.contains("hf_secret") && out.join("report.html").exists());
    let hub = hub(|_| None);
    let pushed = push(&out, &hub.server.endpoint, &[]);
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert!(
        hub.repository.lock().unwrap().files["model.safetensors"] == fs::read(out.join("model.safetensors")).unwrap()
    );
}

#[test]
fn what_is_pushed_is_said_in_the_help_and_a_folder_that_is_none_is_named() {
    let help = run(&["push", "--help"]).stdout;
    for said in ["README.md", "Checkpoints, engine.json", "HF_TOKEN", "--hub-private"] {
        assert!(help.contains(said), "{help}");
    }
    let folder = tempfile::tempdir().unwrap();
    let refused = push(folder.path(), "http://127.0.0.1:9", &[]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("is no model folder") && refused.stderr.contains("hint: give a folder"),
        "{}",
        refused.stderr
    );
}
