//! `--device`: the emulated device trains for real, and a device that is not there is said to be missing.

use engine::cuda;

use crate::train;
#[cfg(engine_emulated)]
use crate::{metrics, of_steps};

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
fn a_missing_gpu_is_an_error_that_says_what_to_do() {
    let Some(missing) = cuda::missing() else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = train(&folder.path().join("out"), &["--device", "cuda"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains(&missing.report()), "{}", run.stderr);
    assert!(run.stderr.contains("hint:"), "{}", run.stderr);
}
