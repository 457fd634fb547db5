//! `--device`: the emulated device trains for real, and a device that is not there is said to be missing.

use engine::cuda;

use crate::{metrics, of_steps, path, quickstart, run, train};

/// Loss and gradient norm of the first step of a run with these flags.
#[cfg(engine_emulated)]
fn first_step(flags: &[&str]) -> [f64; 2] {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let run = train(&output, &[flags, &["--max-steps", "1", "--per-device-train-batch-size", "1"]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("peak memory of tensors"), "{}", run.stderr);
    assert!(output.join("model.safetensors").is_file());
    let records = metrics(&output);
    ["loss", "grad_norm"].map(|name| of_steps(&records, name)[0])
}

#[test]
#[cfg(engine_emulated)]
fn the_emulated_device_trains_as_the_cpu_does() {
    let cpu = first_step(&["--device", "cpu"]);
    let emulated = first_step(&["--device", "emulated", "--dtype", "f32"]);
    for (got, expected) in emulated.iter().zip(cpu) {
        assert!((got / expected - 1.0).abs() < 1e-5, "{emulated:?}, the CPU's {cpu:?}");
    }
}

#[test]
fn bf16_on_the_cpu_trains_scores_and_generates() {
    let folder = tempfile::tempdir().unwrap();
    let [full, half] = ["f32", "bf16"].map(|dtype| {
        let output = folder.path().join(dtype);
        let trained = train(&output, &["--device", "cpu", "--dtype", dtype, "--learning-rate", "1e-3"]);
        assert_eq!(trained.code, 0, "{}", trained.stderr);
        output
    });
    let losses = [&full, &half].map(|output| of_steps(&metrics(output), "loss"));
    for (f32, bf16) in losses[0].iter().zip(&losses[1]) {
        // Other numbers (it is not f32 by another name), near to them.
        assert!(f32 != bf16 && (bf16 / f32 - 1.0).abs() < 0.02, "{losses:?}");
    }
    let (model, rows) = (path(&half), path(&quickstart().join("test.jsonl")));
    let tools = path(&quickstart().join("tools.json"));
    let place = ["--model", &model, "--tools", &tools, "--device", "cpu", "--dtype", "bf16", "--max-new-tokens", "4"];
    let eval = run(&[&["eval", "--dataset", &rows, "--loss"], &place[..]].concat());
    assert!(eval.code == 0 && eval.stdout.contains("evaluation loss"), "{}", eval.stderr);
    let answer = run(&[&["generate", "--prompt", "What is the time in Oslo?"], &place[..]].concat());
    assert!(answer.code == 0 && !answer.stdout.trim().is_empty(), "{}", answer.stderr);
}

#[test]
fn a_missing_gpu_is_an_error_that_says_what_to_do() {
    let Some(missing) = cuda::missing() else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = train(&folder.path().join("out"), &["--device", "cuda"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains(&missing.report()), "{}", run.stderr);
    assert!(run.stderr.contains("hint:"), "{}", run.stderr);
}
