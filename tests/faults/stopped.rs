//! A run that is asked to stop, or diverges, while the disk is full or refuses.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::{init, shim, training, with_config};

/// A run without end, once it has done some steps, and what it says from then on.
fn begun(mut command: Command) -> (Child, Lines<BufReader<ChildStderr>>) {
    command.args(["--save-strategy", "no", "--max-steps", "1000000", "--lr-scheduler-type", "constant"]);
    let mut run = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stderr.take().unwrap()).lines();
    wait_for(&mut lines, "step 2/");
    (run, lines)
}

fn wait_for(lines: &mut Lines<BufReader<ChildStderr>>, start: &str) {
    let mut seen = String::new();
    loop {
        let line = lines.next().unwrap_or_else(|| panic!("`{start}` was not said:\n{seen}")).unwrap();
        if line.starts_with(start) {
            return;
        }
        seen += &(line + "\n");
    }
}

fn interrupt(run: &Child) {
    rustix::process::kill_process(rustix::process::Pid::from_child(run), rustix::process::Signal::INT).unwrap();
}

fn ended(mut run: Child, lines: Lines<BufReader<ChildStderr>>) -> (Option<i32>, String) {
    let said = lines.map(Result::unwrap).collect::<Vec<_>>().join("\n");
    (run.wait().unwrap().code(), said)
}

fn checkpoints(out: &Path) -> Vec<String> {
    let names = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("checkpoint-")).collect()
}

#[test]
fn a_run_that_is_asked_to_stop_waits_for_room_or_a_second_time() {
    let folder = with_config();
    let model = folder.path().join("model");
    assert!(init(folder.path(), &model, "1").output().unwrap().status.success());
    for freed in [true, false] {
        let (out, room) = (folder.path().join(format!("out-{freed}")), folder.path().join(format!("room-{freed}")));
        let mut command = training(&model, &out);
        command.env("LD_PRELOAD", shim()).env("FAULT_FULL_UNTIL", &room);
        command.env("FAULT_DIR", out.join(".tmp-checkpoint-")).env("FAULT_AT", "1");
        let (run, mut lines) = begun(command);
        interrupt(&run);
        wait_for(&mut lines, "waiting for room");
        if freed {
            fs::write(&room, "").unwrap();
        } else {
            interrupt(&run);
        }
        let (code, said) = ended(run, lines);
        assert_eq!(code, Some(130), "{said}");
        assert_eq!(said.contains("interrupted: the run as of step"), freed, "{said}");
        assert_eq!(checkpoints(&out).len(), usize::from(freed), "{said}");
    }
}

#[test]
fn a_disk_that_refuses_changes_neither_the_exit_code_nor_what_is_said_first() {
    let folder = with_config();
    let model = folder.path().join("model");
    assert!(init(folder.path(), &model, "1").output().unwrap().status.success());
    let refusing = |out: &Path, name: &str| {
        let mut command = training(&model, out);
        command.env("LD_PRELOAD", shim()).env("FAULT_DIR", out.join(name)).env("FAULT_MODE", "fail");
        command.env("FAULT_AT", "1").env("FAULT_HIT", folder.path().join("hit"));
        command
    };
    let out = folder.path().join("stopped");
    let (run, lines) = begun(refusing(&out, "checkpoint-"));
    interrupt(&run);
    let (code, said) = ended(run, lines);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("interrupted: the run as of step") && said.contains("could not be saved"), "{said}");
    assert!(said.contains("caused by: "), "{said}");
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert!(metrics.contains("train_runtime"), "the run was not brought to its end: {metrics}");

    let out = folder.path().join("diverged");
    let mut command = refusing(&out, "diverged-");
    let output = command.args(["--learning-rate", "1e30", "--save-strategy", "no"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in
        ["the model before that step could not be saved: cannot write", "caused by: step 2: loss", "hint: lower"]
    {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
    assert!(fs::read_to_string(out.join("metrics.jsonl")).unwrap().contains("train_runtime"));
}
