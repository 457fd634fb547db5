//! The stand-in for others: `huggingface_hub` must find a hub in it, or what is pushed to it proves little.

use std::path::PathBuf;
use std::time::Duration;

use crate::push::PARTS;
use crate::standin_upload::{Rules, serve_uploads};

#[test]
#[ignore = "serves until the file that ENGINE_HUB_STANDIN names is removed: scripts/check-hub-stand-in runs it"]
fn the_stand_in_serves_others() {
    let file = PathBuf::from(std::env::var("ENGINE_HUB_STANDIN").expect("ENGINE_HUB_STANDIN names a file"));
    let [whole, parts] = [0, PARTS.chunk].map(|chunk| serve_uploads(Rules { large: 1000, chunk }, |_| None));
    std::fs::write(&file, format!("{}\n{}\n", whole.server.endpoint, parts.server.endpoint)).unwrap();
    while file.exists() {
        std::thread::sleep(Duration::from_millis(100));
    }
}
