//! Indexes of sharded checkpoints: the names that come out lie in the folder.
#![no_main]

use std::path::{Component, Path};

use engine::io::safetensors::parse_index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for name in parse_index(text).unwrap_or_default() {
        let parts: Vec<_> = Path::new(&name).components().collect();
        assert!(matches!(parts[..], [Component::Normal(_)]), "{name:?}");
    }
});
