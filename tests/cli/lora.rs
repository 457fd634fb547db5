//! LoRA from the command line: an adapter is trained, goes on, is used, merged, and refused where it does not fit.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{Run, metrics, names, of_steps, path, quickstart, run, train};

const LORA: [&str; 6] = ["--lora-r", "4", "--lora-target-modules", "all-linear", "--learning-rate", "1e-2"];

fn lora(output: &Path, extra: &[&str]) -> Run {
    train(output, &[&LORA[..], extra].concat())
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

/// The loss of a model on the test rows.
fn loss(model: &Path, adapter: Option<&Path>) -> f64 {
    let q = quickstart();
    let (model, rows, tools) = (path(model), path(&q.join("test.jsonl")), path(&q.join("tools.json")));
    let mut flags = vec!["eval", "--model", &model, "--dataset", &rows, "--tools", &tools, "--loss"];
    flags.extend(["--max-new-tokens", "1", "--log-format", "json"]);
    let adapter = adapter.map(path);
    flags.extend(adapter.iter().flat_map(|adapter| ["--adapter", adapter]));
    let scored = run(&flags);
    assert_eq!(scored.code, 0, "{}", scored.stderr);
    serde_json::from_str::<Value>(&scored.stdout).unwrap()["eval_loss"].as_f64().unwrap()
}

#[test]
fn an_adapter_is_trained_used_and_merged_and_the_model_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (output, merged, base) = (folder.path().join("out"), folder.path().join("merged"), quickstart().join("model"));
    let trained = lora(&output, &[]);
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    assert!(trained.stderr.contains("of an adapter are trained"), "{}", trained.stderr);
    assert!(trained.stderr.contains(&format!("--adapter {}", output.display())), "{}", trained.stderr);
    let files = names(&output);
    for name in ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"] {
        assert!(files.contains(&name.to_owned()), "{files:?}");
    }
    assert!(!files.contains(&"model.safetensors".to_owned()) && !files.contains(&"config.json".to_owned()));
    let config: Value = serde_json::from_slice(&fs::read(output.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"], &config["bias"]), (&4.into(), &8.into(), &"none".into()));
    assert_eq!(config["base_model_name_or_path"], path(&base));

    let made = run(&[
        "merge",
        "--model",
        &path(&base),
        "--adapter",
        &path(&output),
        "--output",
        &path(&merged),
        "--save-dtype",
        "f32",
    ]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let (before, beside, after) = (loss(&base, None), loss(&base, Some(&output)), loss(&merged, None));
    assert!((beside / after - 1.0).abs() < 1e-6, "{beside} {after}");
    assert!(beside < before - 0.01, "{before} {beside}");
    let answer = ["generate", "--model", &path(&base), "--adapter", &path(&output), "--prompt", "hi"];
    let answered = run(&[&answer[..], &["--max-new-tokens", "2"]].concat());
    assert_eq!(answered.code, 0, "{}", answered.stderr);

    let refused = run(&["generate", "--model", &path(&output), "--prompt", "hi"]);
    assert!(refused.code == 1 && refused.stderr.contains("--adapter"), "{}", refused.stderr);
    assert_eq!(lora(&output, &[]).code, 1, "an adapter is not replaced unasked");
}

#[test]
fn a_run_that_was_stopped_goes_on_and_ends_equal_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let flags = ["--save-strategy", "steps", "--save-steps", "1", "--modules-to-save", "embed_tokens,norm"];
    let ended = lora(&whole, &[&flags[..], &["--save-total-limit", "0"]].concat());
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let saved = whole.join("checkpoint-1");
    // A checkpoint has the state of what is trained: an adapter, its two moments, no weights of the model.
    let size = |name: &str| fs::metadata(saved.join(name)).unwrap().len();
    let (state, adapter) = (size("run_state.safetensors"), size("adapter_model.safetensors"));
    assert!(state < 2 * adapter && !saved.join("model.safetensors").exists(), "{state} {adapter}");
    let resumed = lora(&parts, &[&flags[..], &["--resume-from-checkpoint", &path(&saved)]].concat());
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    assert!(weights(&whole) == weights(&parts));
    assert_eq!(of_steps(&metrics(&whole), "loss"), of_steps(&metrics(&parts), "loss"));
    let other = train(&parts, &["--resume-from-checkpoint", &path(&saved)]);
    assert!(other.code == 2 && other.stderr.contains("`--lora-r` was 4, now it is unset"), "{}", other.stderr);
}

#[test]
fn training_goes_on_with_an_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    assert_eq!(lora(&first, &["--shuffle", "false"]).code, 0);
    let went_on = train(&second, &["--adapter", &path(&first), "--learning-rate", "1e-2", "--shuffle", "false"]);
    assert_eq!(went_on.code, 0, "{}", went_on.stderr);
    let losses = |output: &Path| of_steps(&metrics(output), "loss");
    assert!(losses(&second)[0] < losses(&first)[0] - 0.01, "{:?} {:?}", losses(&first), losses(&second));
    assert!(weights(&first) != weights(&second));
    assert!(
        fs::read(first.join("adapter_config.json")).unwrap() == fs::read(second.join("adapter_config.json")).unwrap()
    );
}

#[test]
fn what_cannot_be_trained_or_used_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    for (flags, said) in [
        (&["--lora-r", "0"][..], "at least 1"),
        (&["--lora-alpha", "3"], "--lora-r"),
        (&["--lora-r", "4", "--lora-dropout", "1"], "--lora-dropout"),
        (&["--lora-r", "4", "--lora-target-modules", "q_proj,c_attn"], "`c_attn` is no target module"),
        (&["--lora-r", "4", "--modules-to-save", "score"], "`score` is no module to save"),
        (&["--lora-r", "4", "--adapter", "x"], "cannot be used with"),
    ] {
        let refused = train(&output, flags);
        assert!(refused.code == 2 && refused.stderr.contains(said), "{flags:?}: {}", refused.stderr);
    }
    let none = train(&output, &["--adapter", &path(&quickstart().join("model"))]);
    assert!(none.code == 1 && none.stderr.contains("is no adapter"), "{}", none.stderr);
    // An adapter of peft, of another model.
    let of_another = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora/trained");
    let other = train(&output, &["--adapter", &path(&of_another)]);
    for part in ["cannot use the adapter", "its base is `gemma3_tiny`", "hint: "] {
        assert!(other.code == 1 && other.stderr.contains(part), "{}", other.stderr);
    }
    assert!(!output.exists());
}
