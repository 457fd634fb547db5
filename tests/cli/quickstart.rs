//! The README's first command: what it promises of the embedded model.

use crate::{engine, path};

#[test]
fn twenty_rows_teach_the_quickstart_model_a_policy_that_it_did_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let output = path(&folder.path().join("out"));
    let arguments = ["train", "--config", "examples/quickstart/train.toml", "--output-dir", &output];
    let mut command = engine();
    let run: crate::Run = command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap().into();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let counts = |part: &str| {
        let line = run.stdout.lines().find(|line| line.starts_with(part)).expect("the table of scores");
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [before, 20, after, 20, ..] = numbers[..] else { panic!("{line}") };
        (before, after)
    };
    let (before, after) = counts("tool choice");
    assert!(before <= 8 && after >= 16, "{}", run.stdout);
    let (_, after) = counts("strict: + arguments");
    assert!(after >= 12, "{}", run.stdout);
}
