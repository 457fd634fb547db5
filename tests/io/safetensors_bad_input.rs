//! Safetensors that must be refused, and the tensor or file that the error must name.

use std::fs;

use engine::autograd::ParamSpec;
use engine::io::safetensors::{SaveDtype, read_model, write_model};
use serde_json::{Value, json};

use crate::tiny::{assert_fails, edited_safetensors, specs, weights, write_weights};

const Q: &str = "model.layers.0.self_attn.q_proj.weight";

/// Asserts that the bytes, as `model.safetensors`, are refused with these parts in the message.
fn refused(bytes: &[u8], parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let mut out = weights(1);
    assert_fails(read_model(folder.path(), &specs(), &mut out), parts);
}

fn header_refused(edit: impl FnOnce(&mut Value), parts: &[&str]) {
    refused(&edited_safetensors(&weights(1), edit), parts);
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    let folder = tempfile::tempdir().unwrap();
    let (flat, specs) = (weights(1), specs());
    let (last, rest) = specs.split_last().unwrap();
    let mut file = fs::File::create(folder.path().join("model.safetensors")).unwrap();
    write_model(&mut file, rest, &flat[..flat.len() - last.len()], SaveDtype::F32).unwrap();
    let mut out = flat.clone();
    assert_fails(read_model(folder.path(), &specs, &mut out), &["`model.norm.weight` [24] is missing"]);
}

#[test]
fn an_unknown_tensor_is_named() {
    let rename = |header: &mut Value| {
        let tensor = header.as_object_mut().unwrap().remove(Q).unwrap();
        header["model.layers.0.self_attn.q_proj.lora_A.weight"] = tensor;
    };
    header_refused(rename, &["`model.layers.0.self_attn.q_proj.lora_A.weight` does not belong", "hint: "]);
}

#[test]
fn a_wrong_shape_is_named_with_both_shapes() {
    header_refused(|header| header[Q]["shape"] = json!([24, 40]), &[Q, "[24, 40]", "[40, 24]"]);
}

#[test]
fn an_unsupported_dtype_is_named() {
    header_refused(|header| header[Q]["dtype"] = json!("I32"), &[Q, "I32", "hint: "]);
}

#[test]
fn overlapping_tensors_are_refused() {
    let overlap = |header: &mut Value| {
        let offsets = header[Q]["data_offsets"].clone();
        header["model.layers.0.self_attn.o_proj.weight"]["data_offsets"] = offsets;
    };
    header_refused(overlap, &["model.safetensors", "not a whole safetensors file", "invalid offset"]);
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let bytes = edited_safetensors(&weights(1), |_| {});
    for length in [0, 1, 7, 8, 9, 100, bytes.len() / 2, bytes.len() - 1] {
        refused(&bytes[..length], &["model.safetensors", "hint: "]);
    }
    refused(&[&bytes[..], b"x"].concat(), &["not a whole safetensors file"]);
}

#[test]
fn an_absurd_header_length_is_refused() {
    let mut bytes = edited_safetensors(&weights(1), |_| {});
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&bytes, &["not a whole safetensors file"]);
}

#[test]
fn nan_and_infinity_are_named_with_tensor_and_element() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let at = 40 * 24 + 24 + 17;
        let mut flat = weights(1);
        flat[at] = 424242.0;
        let mut bytes = edited_safetensors(&flat, |_| {});
        let place = bytes.windows(4).rposition(|window| window == 424242f32.to_le_bytes()).unwrap();
        bytes[place..place + 4].copy_from_slice(&bad.to_le_bytes());
        refused(&bytes, &[Q, &format!("holds {bad} at element 17")]);
    }
}

#[test]
fn the_element_is_counted_over_the_whole_of_a_large_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let specs = [ParamSpec { name: "model.embed_tokens.weight".into(), shape: vec![3000, 3000], decay: true }];
    let mut flat = vec![0.5; 9_000_000];
    let path = folder.path().join("model.safetensors");
    write_model(&mut fs::File::create(&path).unwrap(), &specs, &flat, SaveDtype::F32).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let start = bytes.len() - 4 * 9_000_000;
    for index in [8_888_888, 8_999_999] {
        bytes[start + 4 * index..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();
    assert_fails(read_model(folder.path(), &specs, &mut flat), &["element 8888888"]);
}

#[test]
fn nan_is_not_saved() {
    let mut flat = weights(1);
    flat[40 * 24 + 3] = f32::NAN;
    let result = write_model(&mut Vec::new(), &specs(), &flat, SaveDtype::Bf16);
    assert_fails(result, &["model.layers.0.input_layernorm.weight", "element 3"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_reported() {
    let mut full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let result = write_model(&mut full, &specs(), &weights(1), SaveDtype::Bf16);
    assert_fails(result, &["cannot write the weights", "No space left"]);
}

#[test]
fn a_folder_without_weights_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut out = weights(1);
    let result = read_model(folder.path(), &specs(), &mut out);
    assert_fails(result, &["has no `model.safetensors`", "engine import"]);
}

#[test]
fn a_shard_index_cannot_point_outside_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    write_weights(&folder.path().join("model.safetensors"), &weights(1), SaveDtype::F32);
    for file in [json!("../model.safetensors"), json!(folder.path().join("model.safetensors")), json!(7), json!("")] {
        let index = json!({"weight_map": {Q: file}});
        fs::write(inner.join("model.safetensors.index.json"), index.to_string()).unwrap();
        let mut out = weights(1);
        assert_fails(read_model(&inner, &specs(), &mut out), &["index.json", Q, "not a file name"]);
    }
}

#[test]
fn a_missing_shard_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let index = json!({"weight_map": {Q: "model-00001-of-00002.safetensors"}});
    fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let mut out = weights(1);
    assert_fails(read_model(folder.path(), &specs(), &mut out), &["model-00001-of-00002.safetensors"]);
}
