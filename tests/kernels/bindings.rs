//! The committed bindings are what bindgen makes of the header.

use std::process::Command;

#[test]
#[ignore = "needs bindgen-cli 0.72.1 and libclang: cargo install bindgen-cli --version 0.72.1 --locked"]
fn generating_the_bindings_again_changes_nothing() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/generate-bindings");
    let output = Command::new(script).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
