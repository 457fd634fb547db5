//! The small commands: help, info, preview, generate, init.

use std::fs;

use crate::{names, path, quickstart, run};

#[test]
fn help_and_version_go_to_stdout() {
    for flags in [&["--help"][..], &["--version"], &["train", "--help"], &["eval", "--help"]] {
        let run = run(flags);
        assert_eq!(run.code, 0);
        assert!(run.stdout.contains("engine") && run.stderr.is_empty());
    }
}

#[test]
fn every_flag_of_the_train_command_has_a_help_text() {
    let command = <engine::cli::args::Cli as clap::CommandFactory>::command();
    for command in command.get_subcommands() {
        for argument in command.get_arguments().filter(|a| a.get_id() != "help") {
            assert!(argument.get_help().is_some(), "{} of {}", argument.get_id(), command.get_name());
        }
    }
}

/// The text of a command's `--help`.
fn help_of(command: &str) -> String {
    run(&[command, "--help"]).stdout
}

#[test]
fn help_lists_flags_in_the_order_in_which_a_user_meets_them() {
    let headings = ["Model:", "Data:", "Optimization:", "Evaluation:", "Generation:", "Output:"];
    for command in ["train", "eval", "generate", "preview", "parity"] {
        let help = help_of(command);
        let found: Vec<&str> = help.lines().filter(|line| headings.contains(line)).collect();
        let expected: Vec<&str> = headings.into_iter().filter(|heading| found.contains(heading)).collect();
        assert_eq!(found, expected, "{command}: each heading once, in this order");
    }
    assert_eq!(help_of("train").lines().filter(|line| headings.contains(line)).count(), headings.len());
}

#[test]
fn every_command_has_an_example_that_is_a_command_line() {
    let command = <engine::cli::args::Cli as clap::CommandFactory>::command();
    for subcommand in command.get_subcommands() {
        let example = subcommand.get_after_help().expect("an example").to_string();
        let line = example.strip_prefix("Example:\n").unwrap().replace("\\\n", " ");
        // Text between quotation marks is one word.
        let words = line.split('"').enumerate().flat_map(|(i, part)| match i % 2 {
            0 => part.split_whitespace().collect::<Vec<_>>(),
            _ => vec![part],
        });
        let parsed = <engine::cli::args::Cli as clap::Parser>::try_parse_from(words);
        parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(line.trim_start().starts_with(&format!("engine {} ", subcommand.get_name())), "{line}");
    }
}

#[test]
fn the_device_for_tests_is_not_offered_and_an_unknown_one_is_a_usage_error() {
    for command in ["train", "eval", "generate"] {
        let help = help_of(command);
        assert!(help.contains("cuda:N") && !help.contains("emulated"), "{help}");
    }
    let refused = run(&["generate", "--model", "m", "--prompt", "p", "--device", "gpu"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("--device") && refused.stderr.contains("cuda:N"), "{}", refused.stderr);
}

#[test]
fn info_tells_the_models_size() {
    let run = run(&["info", "--model", &path(&quickstart().join("model"))]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("6 layers") && run.stdout.contains("cpu"), "{}", run.stdout);
}

#[test]
fn info_says_what_a_build_and_a_machine_lack_also_to_programs() {
    let shown = run(&["info"]).stdout;
    assert!(shown.contains("free)") && shown.contains("products of bf16 on the cpu: "), "{shown}");
    assert!(cfg!(engine_cuda) || shown.contains("cuda kernels: not in this build: its build found no nvcc"), "{shown}");
    let q = path(&quickstart().join("model"));
    let info: serde_json::Value =
        serde_json::from_str(&run(&["info", "--model", &q, "--log-format", "json"]).stdout).unwrap();
    assert_eq!(info["type"], "result");
    assert!(info["model"]["layers"].is_u64() && info["cpu"]["threads"].is_u64(), "{info}");
    assert!(info["cuda"]["name"].is_string() != info["cuda"]["missing"].is_string(), "{info}");
}

#[test]
fn a_conversation_is_piped_in_line_by_line() {
    let q = quickstart();
    let (model, tools) = (path(&q.join("model")), path(&q.join("tools.json")));
    let base = ["generate", "--model", &model, "--tools", &tools, "--max-new-tokens", "12"];
    let nothing = run(&base);
    assert_eq!(nothing.code, 2);
    assert!(nothing.stderr.contains("give `--prompt TEXT`, or `--chat`"), "{}", nothing.stderr);
    let talk = |said: &str, extra: &[&str]| {
        let mut command = crate::engine();
        command.args(base).arg("--chat").args(extra);
        crate::with_input(&mut command, said)
    };
    let (first, second) = ("Where is the office?\n", "And the printer?");
    let one = talk(first, &[]);
    assert_eq!(one.code, 0, "{}", one.stderr);
    assert!(!one.stdout.is_empty());
    let both = talk(&format!("{first}\n{second}"), &[]);
    assert!(both.stdout.starts_with(&one.stdout) && both.stdout.len() > one.stdout.len(), "{}", both.stdout);
    assert_eq!(talk(&format!("{first}/new\n{first}/exit\n{second}"), &[]).stdout, one.stdout.repeat(2));
    assert_eq!(talk("", &["--prompt", first.trim()]).stdout, one.stdout);
}

#[test]
fn preview_marks_the_scored_tokens() {
    let q = quickstart();
    let (model, rows, tools) = (path(&q.join("model")), path(&q.join("train.jsonl")), path(&q.join("tools.json")));
    let base = ["preview", "--model", &model, "--dataset", &rows, "--tools", &tools];
    let all = run(&base);
    assert_eq!(all.code, 0, "{}", all.stderr);
    assert!(all.stdout.contains("<bos>⟦<start_of_turn>developer"), "{}", all.stdout);
    let completion = run(&[&base[..], &["--completion-only-loss", "--row", "2"]].concat());
    assert!(completion.stdout.contains("<start_of_turn>model\n⟦<start_function_call>call:"), "{}", completion.stdout);
    assert!(completion.stdout.contains("<end_function_call><start_function_response>⟧"), "{}", completion.stdout);
    assert_eq!(run(&[&base[..], &["--row", "21"]].concat()).code, 1);
}

#[test]
fn generate_prints_one_answer_and_a_seed_repeats_it() {
    let q = quickstart();
    let (model, tools) = (path(&q.join("model")), path(&q.join("tools.json")));
    let base = ["generate", "--model", &model, "--tools", &tools, "--prompt", "Where is the office?"];
    let base = [&base[..], &["--max-new-tokens", "12"]].concat();
    let greedy = run(&base);
    assert_eq!(greedy.code, 0, "{}", greedy.stderr);
    assert!(!greedy.stdout.trim().is_empty());
    let draw = |seed: &str| run(&[&base[..], &["--do-sample", "--seed", seed]].concat()).stdout;
    assert_eq!(draw("1"), draw("1"));
}

#[test]
fn init_makes_a_model_that_other_commands_read() {
    let folder = tempfile::tempdir().unwrap();
    let config = path(&quickstart().join("model/config.json"));
    let range = serde_json::from_slice::<serde_json::Value>(&fs::read(&config).unwrap()).unwrap()["initializer_range"]
        .as_f64()
        .unwrap();
    let init = |name: &str, seed: &str| {
        let output = path(&folder.path().join(name));
        let made = run(&["init", "--config", &config, "--output", &output, "--seed", seed]);
        assert_eq!(made.code, 0, "{}", made.stderr);
        assert_eq!(run(&["info", "--model", &output]).code, 0);
        fs::read(folder.path().join(name).join("model.safetensors")).unwrap()
    };
    assert!(init("a", "3") == init("b", "3"));
    assert!(init("c", "4") != init("d", "3"));
    let bytes = init("e", "5");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let embedding = tensors.tensor("model.embed_tokens.weight").unwrap();
    let numbers = embedding.data().as_chunks::<4>().0.iter();
    let values: Vec<f64> = numbers.map(|bytes| f32::from_le_bytes(*bytes).into()).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    // Over n numbers the mean strays by range / sqrt(n) and the deviation by range / sqrt(2 n): five times that is never seen.
    let n = values.len() as f64;
    assert!(mean.abs() < 5.0 * range / n.sqrt(), "{mean}");
    assert!((deviation - range).abs() < 5.0 * range / (2.0 * n).sqrt(), "{deviation}");
    assert!(names(&folder.path().join("a")).contains(&"tokenizer.json".to_owned()));
}
