//! One file written whole or not at all.

use std::fs;
use std::path::Path;

use engine::io::atomic::write_atomically;

#[test]
fn writing_replaces_the_file_and_leaves_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    write_atomically(&path, b"old").unwrap();
    write_atomically(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_path_that_cannot_be_written_is_named_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no/such/report.json");
    let error = write_atomically(&missing, b"x").unwrap_err();
    assert!(error.report().contains(&missing.display().to_string()), "{}", error.report());
    let error = write_atomically(folder.path(), b"x").unwrap_err();
    assert!(error.to_string().contains("is a folder"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(write_atomically(Path::new("/"), b"x").is_err());
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_is_written_to_and_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    write_atomically(Path::new("/dev/null"), b"x").unwrap();
    let error = write_atomically(Path::new("/dev/full"), b"x").unwrap_err();
    assert!(error.report().contains("cannot write `/dev/full`"), "{}", error.report());
    assert!(fs::metadata("/dev/full").unwrap().file_type().is_char_device());
}

/// Runs itself again as a process whose files may not grow beyond a few blocks, which fails as a full disk does.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_leaves_the_old_file_and_no_other() {
    const FOLDER: &str = "ENGINE_TEST_ATOMIC_FOLDER";
    if let Some(folder) = std::env::var_os(FOLDER) {
        write_atomically(&Path::new(&folder).join("report.json"), &vec![b'x'; 1 << 20]).expect_err("the disk is full");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    fs::write(&path, "old").unwrap();
    let limited =
        "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact atomic::a_disk_that_fills_up_leaves_the_old_file_and_no_other";
    let mut child = std::process::Command::new("sh");
    child.args(["-c", limited]).arg(std::env::current_exe().unwrap()).env(FOLDER, folder.path());
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link_to_the_new_text() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    write_atomically(&link, b"new").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&file).unwrap(), b"new");
}

#[cfg(unix)]
#[test]
fn the_file_has_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
    write_atomically(&ours, b"x").unwrap();
    fs::write(&plain, b"x").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
}
