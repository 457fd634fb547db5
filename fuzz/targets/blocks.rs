//! Blocks of every quantized type.
#![no_main]

use engine::io::gguf::decode_blocks;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, bytes)) = data.split_first() else { return };
    if let Ok(numbers) = decode_blocks(kind.into(), bytes) {
        assert!(numbers.len() <= 2 * bytes.len());
    }
});
