//! What users of TRL's command line type, and what the README says of it.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use engine::cli::args::Cli;
use engine::cli::sft_config::{Counterpart, SFT_CONFIG, markdown};
use engine::cli::spelling::is_named;

use crate::{folder_with, path, quickstart, run, train};

#[test]
fn every_field_of_sft_config_has_a_flag_or_a_reason() {
    let fields: Vec<&str> = include_str!("../fixtures/cli/sft_config_fields.txt").lines().collect();
    assert_eq!(SFT_CONFIG.map(|(field, _)| field).to_vec(), fields);
    let command = Cli::command();
    let train = command.find_subcommand("train").unwrap();
    let known = |flag: &str| train.get_arguments().any(|argument| is_named(argument, flag));
    for (field, counterpart) in SFT_CONFIG {
        let same = field.replace('_', "-");
        match counterpart {
            Counterpart::Same => assert!(known(&same), "there is no --{same}"),
            Counterpart::Flag(flag) => {
                assert!(known(flag.trim_start_matches('-').split(' ').next().unwrap()), "there is no {flag}");
            }
            Counterpart::None(reason) => assert!(!known(&same) && !reason.is_empty(), "there is --{same}"),
        }
    }
}

/// `ENGINE_UPDATE_README=1 cargo test --release --test cli -- spelling` writes it anew.
#[test]
fn the_readme_has_the_table() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&file).unwrap();
    let start = readme.find("| SFTConfig | engine |").expect("the README has no table of SFTConfig");
    let end = start + readme[start..].find("\n\n").unwrap() + 1;
    if std::env::var("ENGINE_UPDATE_README").is_ok_and(|value| value == "1") {
        fs::write(&file, format!("{}{}{}", &readme[..start], markdown(), &readme[end..])).unwrap();
        return;
    }
    assert!(readme[start..end] == markdown(), "the README's table is another than src/cli/sft_config.rs has");
}

#[test]
fn underscores_and_the_short_names_of_other_trainers_work() {
    let folder = tempfile::tempdir().unwrap();
    let quickstart = quickstart();
    let [model, rows, tools] = ["model", "train.jsonl", "tools.json"].map(|name| path(&quickstart.join(name)));
    let trl = folder.path().join("trl");
    let typed = run(&[
        "train",
        "--model_name_or_path",
        &model,
        "--dataset_name",
        &rows,
        "--tools",
        &tools,
        "--output_dir",
        &path(&trl),
        "--lr=1e-3",
        "--epochs",
        "1",
        "--batch-size",
        "10",
        "--warmup_ratio",
        "0.5",
        "--bf16",
        "False",
        "--shuffle",
        "False",
        "--score",
        "none",
        "--save_strategy=no",
    ]);
    assert_eq!(typed.code, 0, "{}", typed.stderr);
    let settings: serde_json::Value = serde_json::from_slice(&fs::read(trl.join("run.json")).unwrap()).unwrap();
    let settings = &settings["settings"];
    assert_eq!(settings["learning_rate"], 1e-3);
    assert_eq!(settings["per_device_train_batch_size"], 10);
    assert_eq!(settings["warmup_steps"], 0.5);
    assert_eq!(settings["shuffle"], false);
}

#[test]
fn a_flag_that_only_trl_has_gets_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, said) in [
        ("--padding-free", "batches have no padding"),
        ("--use_cpu", "`--device cpu` is what it is here"),
        ("--fp16=true", "bf16 and f32 are"),
        ("--use-peft", "`--lora-r R` is what it is here"),
    ] {
        let refused = train(&folder.path().join("out"), &[flag]);
        assert_eq!(refused.code, 2, "{flag}");
        let name = flag.split('=').next().unwrap().replace('_', "-");
        assert!(refused.stderr.contains(&format!("`{name}` is no flag")), "{}", refused.stderr);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
        assert!(!folder.path().join("out").exists());
    }
    let (_kept, file) = folder_with("train.toml", "padding_free = true\n");
    let refused = train(&folder.path().join("out"), &["--config", &file]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("unknown key `padding_free`") && refused.stderr.contains("no padding"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_config_is_toml_or_yaml_and_its_paths_are_beside_it() {
    let toml = "model = \"model\"\ndataset = \"rows:train, more/*.jsonl\"\ntools = \"tools.json\"\noutput_dir = \"made/out\"\nlr = 1e-3\nmax_steps = 1\n\
                score = \"none\"\nlr_scheduler_type = \"cosine_with_min_lr\"\nlr_scheduler_kwargs = { min_lr_rate = 0.1 }\n";
    let yaml = "model: model\ndataset: rows.jsonl\ntools: tools.json\noutput_dir: made/out\nlr: 1.0e-3\nmax_steps: 1\nscore: none\n\
                lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs:\n  min_lr_rate: 0.1\neval_dataset: null\nbf16: false\n";
    for (name, text) in [("train.toml", toml), ("train.yaml", yaml)] {
        let (folder, file) = folder_with(name, text);
        let here = folder.path();
        std::os::unix::fs::symlink(quickstart().join("model"), here.join("model")).unwrap();
        fs::copy(quickstart().join("train.jsonl"), here.join("rows.jsonl")).unwrap();
        for (folder, rows) in [("rows", "train.jsonl"), ("more", "test.jsonl")] {
            fs::create_dir(here.join(folder)).unwrap();
            fs::copy(quickstart().join(rows), here.join(folder).join(rows)).unwrap();
        }
        fs::copy(quickstart().join("tools.json"), here.join("tools.json")).unwrap();
        let trained = run(&["train", "--config", &file]);
        assert_eq!(trained.code, 0, "{name}: {}", trained.stderr);
        let made: serde_json::Value =
            serde_json::from_slice(&fs::read(here.join("made/out/run.json")).unwrap()).unwrap();
        assert_eq!(made["settings"]["lr_scheduler_kwargs"]["min_lr_rate"], 0.1, "{name}");
    }
    for (name, text, said) in [
        ("train.yaml", "- a\n", "is not a table in YAML"),
        ("train.yaml", "model: [a\n", "is not a table in YAML"),
        ("train.yml", "tools: {a: 1}\n", "the value of `tools`"),
        ("train.toml", "tools = {a = 1}\n", "the value of `tools`"),
    ] {
        let (_folder, file) = folder_with(name, text);
        let refused = run(&["train", "--config", &file]);
        assert_eq!(refused.code, 2, "{text}: {}", refused.stderr);
        assert!(refused.stderr.contains(said), "{text}: {}", refused.stderr);
    }
}

#[test]
fn completions_and_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert_eq!(script.code, 0);
        assert!(script.stdout.contains("learning-rate"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(&["man", &path(folder.path())]).code, 0);
    assert!(fs::read_to_string(folder.path().join("engine-train.1")).unwrap().contains("learning\\-rate"));
    let refused = run(&["man", &path(&folder.path().join("none"))]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("cannot write the manual to `"), "{}", refused.stderr);
}

#[test]
fn another_eos_token_ends_rows_and_answers_and_is_saved_with_the_model() {
    let (folder, rows) = folder_with("rows.jsonl", "{\"text\": \"Hello there\"}\n");
    let model = path(&quickstart().join("model"));
    let shown = run(&["preview", "--model", &model, "--dataset", &rows, "--eos-token", "<end_of_turn>"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.stdout.contains(" there<end_of_turn>"), "{}", shown.stdout);
    let out = folder.path().join("out");
    let flags = ["--eos-token", "<end_of_turn>", "--max-steps", "1", "--score", "none", "--save-strategy", "no"];
    let trained =
        run(&[&["train", "--model", &model, "--dataset", &rows, "--output-dir", &path(&out)], &flags[..]].concat());
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let read = |folder: &Path, name: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    };
    assert_eq!(read(&out, "tokenizer_config.json")["eos_token"], "<end_of_turn>");
    // It stops answers beside those that the model knows already.
    let (before, after) = (read(Path::new(&model), "generation_config.json"), read(&out, "generation_config.json"));
    let after = after["eos_token_id"].as_array().unwrap();
    let tokenizer = engine::chat::tokenizer::ChatTokenizer::load(&out).unwrap();
    assert_eq!(after[0], tokenizer.eos_id("<end_of_turn>").unwrap());
    assert!(before["eos_token_id"].as_array().unwrap().iter().all(|id| after.contains(id)));
    let refused = run(&["preview", "--model", &model, "--dataset", &rows, "--eos-token", "two words"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("`two words` is no token of the tokenizer"), "{}", refused.stderr);
}

#[test]
fn another_chat_template_renders_the_rows_and_is_saved_with_the_model() {
    let (folder, template) =
        folder_with("short.jinja", "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}");
    let text = folder.path().join("rows.jsonl");
    fs::write(&text, "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"there\"}]}\n").unwrap();
    let (model, rows) = (path(&quickstart().join("model")), path(&text));
    let shown = run(&["preview", "--model", &model, "--dataset", &rows, "--chat-template-path", &template]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.stdout.contains("[user]Hi[assistant]there"), "{}", shown.stdout);
    let out = folder.path().join("out");
    let flags = ["--chat-template-path", &template, "--max-steps", "1", "--score", "none", "--save-strategy", "no"];
    let trained =
        run(&[&["train", "--model", &model, "--dataset", &rows, "--output-dir", &path(&out)], &flags[..]].concat());
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    assert_eq!(fs::read_to_string(out.join("chat_template.jinja")).unwrap(), fs::read_to_string(&template).unwrap());
    fs::write(&template, "{% if").unwrap();
    for bad in [&*template, "no/such.jinja"] {
        let refused = run(&["preview", "--model", &model, "--dataset", &rows, "--chat-template-path", bad]);
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains(bad), "{}", refused.stderr);
    }
}
