//! Asked to stop: the step is finished, the run saved so that it can go on, and it says so.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use crate::{engine, metrics, names, of_steps, path, quickstart, run, train, train_command};

/// Steps until the run is asked to stop, at the earliest.
const STEPS: &str = "step 3/";

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Whether this process, and so its children, ignore SIGHUP: a run then goes on, as `nohup` wants.
fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}

#[test]
fn a_run_that_is_asked_to_stop_finishes_the_step_saves_and_goes_on_later() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        if signal == "-HUP" && ignores_hangups() {
            eprintln!("SIGHUP is ignored here, as under nohup, and so by the run");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let flags = ["--max-steps", "100000", "--lr-scheduler-type", "constant", "--save-strategy", "no"];
        let mut child = train_command(&output, &flags).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut text = String::new();
        while !text.contains(STEPS) {
            assert!(stderr.read_line(&mut text).unwrap() > 0, "the run ended by itself:\n{text}");
        }
        send(signal, &child);
        stderr.read_to_string(&mut text).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{text}");
        assert!(
            text.contains("interrupted: the run as of step") && text.contains("--resume-from-checkpoint"),
            "{text}"
        );

        let steps = of_steps(&metrics(&output), "step").len();
        let checkpoint = output.join(format!("checkpoint-{steps}"));
        assert!(text.contains(&format!("as of step {steps} ")), "{steps} steps were recorded:\n{text}");
        assert_eq!(run(&["info", "--model", &path(&checkpoint)]).code, 0);
        assert!(!output.join("model.safetensors").exists(), "a run that has not ended leaves no model");
        let resumed = train(&output, &["--resume-from-checkpoint", &path(&checkpoint)]);
        assert_eq!(resumed.code, 2, "its number of steps differs: {}", resumed.stderr);
        assert!(resumed.stderr.contains("`--max-steps` was 100000, now it is 2"), "{}", resumed.stderr);
    }
}

/// The README's main job, whose config file lets it overwrite the folder.
#[test]
fn the_quickstart_goes_on_from_where_it_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (output, config) = (folder.path().join("out"), path(&quickstart().join("train.toml")));
    let stopped = |resume: &[&str]| {
        let flags = ["train", "--config", &config, "--output-dir", &path(&output), "--score", "none"];
        let flags = [&flags[..], &["--max-steps", "100000", "--eval-strategy", "no"], resume].concat();
        let mut child = engine().args(flags).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut text = String::new();
        while !text.lines().any(|line| line.starts_with("step ")) {
            assert!(stderr.read_line(&mut text).unwrap() > 0, "the run ended by itself:\n{text}");
        }
        send("-INT", &child);
        stderr.read_to_string(&mut text).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{text}");
        let (_, step) = text.split_once("the run as of step ").unwrap();
        (step.split_once(' ').unwrap().0.to_owned(), text)
    };
    let (step, _) = stopped(&[]);
    let (last, text) = stopped(&["--resume-from-checkpoint"]);
    assert!(text.contains(&format!("going on after step {step} from")), "{text}");
    assert!(last.parse::<u64>().unwrap() > step.parse().unwrap(), "{text}");
    // Typed beside it, too.
    let (_, text) = stopped(&["--overwrite-output-dir", "--resume-from-checkpoint", "latest"]);
    assert!(text.contains(&format!("going on after step {last} from")), "{text}");
}

/// A terminal that goes away closes stderr and sends SIGHUP, often twice, and SIGTERM.
#[test]
fn a_lost_terminal_does_not_lose_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let mut child = train_command(&output, &["--max-steps", "100000"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains(STEPS) {
        assert!(stderr.read_line(&mut text).unwrap() > 0, "the run ended by itself:\n{text}");
    }
    drop(stderr);
    ["-HUP", "-HUP", "-TERM"].iter().for_each(|signal| send(signal, &child));
    let code = child.wait().unwrap().code().expect("it ends by itself");
    assert!(code == 129 || code == 143, "{code}");
    assert_eq!(names(&output).iter().filter(|name| name.starts_with("checkpoint-")).count(), 1);
}

#[test]
fn ctrl_c_ends_scoring_at_once_and_says_that_nothing_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let test = path(&quickstart().join("test.jsonl"));
    let flags = ["--eval-dataset", &test, "--score", "before", "--max-new-tokens", "30000", "--do-sample"];
    let mut child = train_command(&output, &flags).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("first example") {
        assert!(stderr.read_line(&mut text).unwrap() > 0, "the run ended by itself:\n{text}");
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    send("-INT", &child);
    stderr.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{text}");
    assert!(text.contains("interrupted: "), "{text}");
}
