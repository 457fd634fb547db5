//! GGUF files that must be refused: never a panic, never a huge allocation, always the place.

use std::fs;

use engine::io::gguf::GgufFile;
use engine::io::source::ModelSource;
use rand::{RngExt, SeedableRng};

use crate::tiny::{GgufBuilder, assert_fails, config, gguf_pair, gguf_string, weights};

fn open(bytes: &[u8]) -> engine::error::Result<GgufFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    GgufFile::open(&path)
}

/// Asserts that the tiny model, changed by `edit`, does not open.
fn refused(edit: impl FnOnce(&mut GgufBuilder), parts: &[&str]) {
    let mut builder = GgufBuilder::tiny(&weights(1));
    edit(&mut builder);
    assert_fails(open(&builder.bytes()), &[&["model.gguf"], parts].concat());
}

/// Asserts that the tiny model, changed by `edit`, opens but does not load as the tiny config says.
fn not_loaded(edit: impl FnOnce(&mut GgufBuilder), parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = GgufBuilder::tiny(&weights(1));
    edit(&mut builder);
    let source = ModelSource::Gguf(builder.write(folder.path()));
    assert_fails(source.load_config().and_then(|_| source.load_flat(&config())), &[&["model.gguf"], parts].concat());
}

#[test]
fn a_wrong_magic_is_refused() {
    refused(|gguf| gguf.magic = *b"GGML", &["does not start with `GGUF`"]);
}

#[test]
fn unknown_versions_and_byte_orders_are_refused() {
    refused(|gguf| gguf.version = 1, &["version 1"]);
    refused(|gguf| gguf.version = 4, &["version 4"]);
    refused(|gguf| gguf.version = 3u32.swap_bytes(), &["big-endian"]);
}

#[test]
fn absurd_counts_are_refused() {
    refused(|gguf| gguf.tensor_count = Some(u64::MAX), &["tensors", "at most"]);
    refused(|gguf| gguf.pair_count = Some(1 << 40), &["metadata pairs", "at most"]);
    refused(|gguf| gguf.tensor_count = Some(60_000), &[]);
    refused(|gguf| gguf.pair_count = Some(60_000), &[]);
}

#[test]
fn absurd_lengths_in_the_metadata_are_refused() {
    let huge = u64::MAX.to_le_bytes();
    refused(|gguf| gguf.pairs.push(gguf_pair("text", 8, &huge)), &["`text` is broken"]);
    for kind in [0u32, 5, 8, 12] {
        let array = [&kind.to_le_bytes()[..], &huge].concat();
        refused(|gguf| gguf.pairs.push(gguf_pair("array", 9, &array)), &["`array` is broken"]);
    }
    let nested = [9u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
    refused(|gguf| gguf.pairs.push(gguf_pair("nested", 9, &[&nested[..], &huge].concat())), &["`nested` is broken"]);
    refused(|gguf| gguf.pairs.push(gguf_pair("odd", 99, &huge)), &["`odd` is broken", "value type 99"]);
}

#[test]
fn an_impossible_alignment_is_refused() {
    for alignment in [0u32, 33, 1 << 31] {
        let pair = gguf_pair("general.alignment", 4, &alignment.to_le_bytes());
        refused(|gguf| gguf.pairs.push(pair), &["general.alignment"]);
    }
}

#[test]
fn unknown_block_types_are_refused_by_name() {
    let name = "blk.1.ffn_up.weight";
    refused(|gguf| gguf.tensor(name).kind = 10, &[name, "`Q2_K`", "hint: "]);
    refused(|gguf| gguf.tensor(name).kind = 4, &[name, "`type 4`", "hint: "]);
    refused(|gguf| gguf.tensor(name).kind = u32::MAX, &[name]);
}

#[test]
fn absurd_tensor_sizes_are_refused() {
    let name = "blk.0.attn_q.weight";
    refused(|gguf| gguf.tensor(name).sizes = vec![u64::MAX, u64::MAX], &[name, "absurd"]);
    refused(|gguf| gguf.tensor(name).sizes = vec![24, 0], &[name, "absurd"]);
    refused(|gguf| gguf.tensor(name).sizes = vec![1 << 30, 4], &[name, "end of the file"]);
    refused(|gguf| gguf.tensor(name).sizes = vec![1; 5], &[name, "5 dimensions"]);
    refused(|gguf| gguf.tensor(name).sizes = vec![], &[name, "0 dimensions"]);
    // Rows of 24 do not fit blocks of 32.
    refused(|gguf| gguf.tensor(name).kind = 8, &[name, "blocks of 32"]);
}

#[test]
fn tensors_outside_the_file_or_over_each_other_are_refused() {
    let edit = |offset: u64| move |gguf: &mut GgufBuilder| gguf.tensor("blk.0.attn_q.weight").offset = offset;
    let mut builder = GgufBuilder::tiny(&weights(1));
    let data = builder.bytes().split_off(builder.header().len().next_multiple_of(32));
    for offset in [u64::MAX, u64::MAX - 4096, data.len() as u64] {
        edit(offset)(&mut builder);
        let header = builder.header();
        let padding = vec![0; header.len().next_multiple_of(32) - header.len()];
        let bytes = [header, padding, data.clone()].concat();
        assert_fails(open(&bytes), &["`blk.0.attn_q.weight` ends after the end"]);
    }
    let mut builder = GgufBuilder::tiny(&weights(1));
    let other = builder.tensor("blk.0.attn_k.weight").offset;
    builder.tensor("blk.0.attn_q.weight").offset = other;
    let header = builder.header();
    let padding = vec![0; header.len().next_multiple_of(32) - header.len()];
    assert_fails(open(&[header, padding, data].concat()), &["`blk.0.attn_q.weight`", "overlap"]);
    refused(|gguf| gguf.tensor("blk.0.attn_q.weight").name = "blk.0.attn_k.weight".into(), &["listed twice"]);
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let builder = GgufBuilder::tiny(&weights(1));
    let bytes = builder.bytes();
    for length in (0..builder.header().len()).chain([bytes.len() / 2, bytes.len() - 1]) {
        assert_fails(open(&bytes[..length]), &["model.gguf"]);
    }
    assert!(open(&bytes).is_ok());
}

#[test]
fn random_damage_to_the_header_never_panics() {
    let builder = GgufBuilder::tiny(&weights(1));
    let (bytes, header) = (builder.bytes(), builder.header().len());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    for _ in 0..2000 {
        let mut damaged = bytes.clone();
        for _ in 0..rng.random_range(1..4) {
            damaged[rng.random_range(0..header)] = rng.random();
        }
        fs::write(&path, &damaged).unwrap();
        let source = ModelSource::Gguf(path.clone());
        let _ = source.load_config().and_then(|_| source.load_flat(&config()));
    }
}

#[test]
fn a_model_of_another_kind_is_refused() {
    let llama = gguf_pair("general.architecture", 8, &gguf_string("llama"));
    not_loaded(|gguf| gguf.pairs[0] = llama, &["`llama`"]);
    not_loaded(|gguf| drop(gguf.pairs.remove(0)), &["general.architecture"]);
    not_loaded(|gguf| drop(gguf.pairs.remove(1)), &["`gemma3.context_length` is missing"]);
}

#[test]
fn missing_extra_and_misshapen_tensors_are_named() {
    not_loaded(|gguf| drop(gguf.tensors.pop()), &["`output_norm.weight` is missing"]);
    not_loaded(|gguf| gguf.tensors[3].name = "blk.0.attn_k.bias".into(), &["`blk.0.attn_k.bias` does not belong"]);
    not_loaded(
        |gguf| gguf.tensor("blk.1.ffn_up.weight").sizes.reverse(),
        &["`blk.1.ffn_up.weight`", "[24, 56]", "[56, 24]"],
    );
}

#[test]
fn nan_weights_are_named() {
    let edit = |gguf: &mut GgufBuilder| gguf.tensor("blk.1.attn_norm.weight").data[20..24].fill(0xff);
    not_loaded(edit, &["`blk.1.attn_norm.weight` holds NaN at element 5"]);
}

#[test]
fn a_file_that_is_cut_short_while_it_is_open_is_an_error_and_no_signal() {
    let folder = tempfile::tempdir().unwrap();
    let path = GgufBuilder::tiny(&weights(1)).write(folder.path());
    let gguf = GgufFile::open(&path).unwrap();
    let mut out = vec![0.0; 24];
    gguf.read_tensor("output_norm.weight", &mut out).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert_fails(
        gguf.read_tensor("output_norm.weight", &mut out),
        &["`output_norm.weight`", "hint: the file is damaged"],
    );
}

#[test]
fn an_absurd_number_of_strings_is_refused_before_they_are_looked_for() {
    let array = [&8u32.to_le_bytes()[..], &(1u64 << 30).to_le_bytes()].concat();
    refused(|gguf| gguf.pairs.push(gguf_pair("array", 9, &array)), &["`array` is broken", "at most"]);
}

#[test]
fn a_config_that_asks_for_more_than_the_file_holds_is_refused_by_the_header_alone() {
    use crate::tiny::config_with;
    use engine::model::gemma3::config::Gemma3Config;
    let folder = tempfile::tempdir().unwrap();
    let source = ModelSource::Gguf(GgufBuilder::tiny(&weights(1)).write(folder.path()));
    let config = Gemma3Config::from_value(config_with("vocab_size", (1 << 24).into())).unwrap();
    assert_fails(source.check(&config), &["`token_embd.weight` has shape [40, 24]", "[16777216, 24]"]);
    let config = Gemma3Config::from_value(config_with("hidden_size", (1 << 20).into())).unwrap();
    assert_fails(source.load_flat(&config), &["`token_embd.weight` has shape"]);
}
