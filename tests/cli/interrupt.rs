//! Ctrl-C: the step is finished, the model saved as it is, and the run says so.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::{metrics, of_steps, path, run, train_command};

#[test]
fn ctrl_c_finishes_the_step_saves_the_model_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let mut child = train_command(&output, &["--max-steps", "100000"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("step 3/") {
        assert!(stderr.read_line(&mut text).unwrap() > 0, "the run ended by itself:\n{text}");
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    stderr.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{text}");
    assert!(text.contains("interrupted") && text.contains("is saved in"), "{text}");

    let steps = of_steps(&metrics(&output), "step").len();
    assert!(text.contains(&format!("as of step {steps} ")), "{steps} steps were recorded:\n{text}");
    assert_eq!(run(&["info", "--model", &path(&output)]).code, 0);
}
