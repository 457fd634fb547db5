//! Whatever strangers wrote is read or refused: nothing panics on random changes of sound files.

use engine::error::Error;
use engine::io::gguf::{check_header, decode_blocks};
use engine::io::safetensors::{Header, parse_index};
use engine::model::gemma3::config::Gemma3Config;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::tiny::{GgufBuilder, config_value, edited_safetensors, weights};

/// Calls `read` with a thousand changes of `sound`, and asserts that some are refused; `head`: the changes lie in front.
fn changed(sound: &[u8], head: usize, read: impl Fn(&[u8]) -> Result<(), Error>) {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    read(sound).unwrap();
    let mut refused = 0;
    for _ in 0..1000 {
        let mut bytes = sound.to_vec();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..head.min(bytes.len()));
            match rng.random_range(0..4) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes[at] = [0, 1, 127, 128, 255][rng.random_range(0..5)],
                2 => bytes.truncate(at + 1),
                _ => bytes[at] = rng.random(),
            }
        }
        refused += usize::from(read(&bytes).is_err());
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn headers_of_safetensors() {
    let sound = edited_safetensors(&weights(1), |_| {});
    changed(&sound, 3000, |bytes| Header::parse(bytes, bytes.len() as u64).map(drop));
}

#[test]
fn indices_of_shards() {
    let sound =
        br#"{"metadata": {"total_size": 7}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    assert_eq!(
        parse_index(std::str::from_utf8(sound).unwrap()).unwrap(),
        ["model-1.safetensors", "model-2.safetensors"]
    );
    changed(sound, usize::MAX, |bytes| parse_index(&String::from_utf8_lossy(bytes)).map(drop));
}

#[test]
fn headers_of_gguf() {
    changed(&GgufBuilder::tiny(&weights(1)).bytes(), 2500, check_header);
}

#[test]
fn configs() {
    let read = |bytes: &[u8]| {
        let value = serde_json::from_slice(bytes).unwrap_or_default();
        Gemma3Config::from_value(value).map(drop)
    };
    changed(config_value().to_string().as_bytes(), usize::MAX, read);
}

#[test]
fn blocks_of_every_kind() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for kind in 0..64 {
        for size in [0, 1, 18, 20, 22, 24, 34, 144, 176, 210, 720, 5040] {
            let mut bytes = vec![0; size];
            rng.fill_bytes(&mut bytes);
            if let Ok(numbers) = decode_blocks(kind, &bytes) {
                assert!(numbers.len() <= 2 * size && (size == 0 || !numbers.is_empty()), "type {kind}");
            }
        }
    }
    assert!(decode_blocks(2, &[0; 17]).is_err() && decode_blocks(99, &[]).is_err());
}
