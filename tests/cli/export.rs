//! `engine export`.

use std::path::Path;

use engine::io::gguf::GgufFile;

use crate::exportable::{config_value, plain_weights, write};
use crate::{Run, engine, names, path, run};

fn export(folder: &Path, extra: &[&str]) -> Run {
    let (model, output) = (path(&folder.join("model")), path(&folder.join("out.gguf")));
    run(&[&["export", "--gguf", "--model", &model, "--output", &output], extra].concat())
}

#[test]
fn export_writes_a_gguf_and_prints_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model"), &config_value(), &plain_weights());
    let done = export(folder.path(), &["--type", "q4_0"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.stdout, format!("{}\n", path(&folder.path().join("out.gguf"))));
    assert!(done.stderr.contains("Modelfile"), "{}", done.stderr);
    assert_eq!(GgufFile::open(&folder.path().join("out.gguf")).unwrap().tensor_names().count(), 28);
    assert_eq!(export(folder.path(), &[]).code, 1, "the file is there");
    assert_eq!(export(folder.path(), &["--overwrite"]).code, 0);
}

#[test]
fn export_says_which_types_there_are_and_wants_a_format() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model"), &config_value(), &plain_weights());
    let unknown = export(folder.path(), &["--type", "q4_k"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("f32, f16, bf16, q8_0, q4_0"), "{}", unknown.stderr);
    let (model, output) = (path(&folder.path().join("model")), path(&folder.path().join("out.gguf")));
    let none = run(&["export", "--model", &model, "--output", &output]);
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("`--gguf`"), "{}", none.stderr);
    assert_eq!(names(folder.path()), ["model"]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_no_file_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model"), &config_value(), &plain_weights());
    // A limit on the size of files stands for the full disk: 100 blocks are less than the model.
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -f 100; exec \"$0\" \"$@\""]).arg(engine().get_program());
    limited.args(["export", "--gguf", "--type", "f32", "--model"]).arg(folder.path().join("model"));
    let stopped: Run = limited.arg("--output").arg(folder.path().join("out.gguf")).output().unwrap().into();
    assert_eq!(stopped.code, 1, "{}", stopped.stderr);
    for part in ["cannot write", "out.gguf", "hint: free some space"] {
        assert!(stopped.stderr.contains(part), "`{part}` is missing in:\n{}", stopped.stderr);
    }
    assert_eq!(names(folder.path()), ["model"]);
}
