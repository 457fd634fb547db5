//! Weights through safetensors files and back.

use std::fs;

use engine::io::safetensors::{SaveDtype, read_model, write_model};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

use crate::tiny::{specs, weights, write_weights};

/// Name, dtype, shape and bytes of a tensor.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

fn read(folder: &std::path::Path) -> Vec<f32> {
    let mut out = vec![f32::NAN; weights(1).len()];
    read_model(folder, &specs(), &mut out).unwrap();
    out
}

#[test]
fn weights_come_back_exactly_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    let flat: Vec<f32> = weights(1).iter().map(|x| x * 1.000_123).collect();
    write_weights(&folder.path().join("model.safetensors"), &flat, SaveDtype::F32);
    assert_eq!(read(folder.path()), flat);
}

#[test]
fn bf16_rounds_to_nearest_even() {
    let folder = tempfile::tempdir().unwrap();
    let mut flat = weights(1);
    // 1 + 1/256 and 1 + 3/256 are ties between neighbours of bf16, which has 7 bits after the point.
    flat[..3].copy_from_slice(&[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0 + 1.001 / 256.0]);
    write_weights(&folder.path().join("model.safetensors"), &flat, SaveDtype::Bf16);
    flat[..3].copy_from_slice(&[1.0, 1.0 + 4.0 / 256.0, 1.0 + 2.0 / 256.0]);
    assert_eq!(read(folder.path()), flat);
}

#[test]
fn the_file_is_what_the_safetensors_crate_reads_with_the_data_aligned() {
    let mut bytes = Vec::new();
    write_model(&mut bytes, &specs(), &weights(1), SaveDtype::Bf16).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header % 8, 0);
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let info = metadata.info("model.layers.1.mlp.down_proj.weight").unwrap();
    assert_eq!((info.dtype, info.shape.as_slice()), (Dtype::BF16, &[24, 56][..]));
    assert_eq!(metadata.tensors().len(), 28);
}

#[test]
fn every_float_dtype_is_read_from_shards() {
    let folder = tempfile::tempdir().unwrap();
    let flat = weights(2);
    let files =
        ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"];
    let mut parts: [Vec<Stored>; 3] = Default::default();
    let mut start = 0;
    let mut index = serde_json::json!({"weight_map": {}});
    for (i, spec) in specs().into_iter().enumerate() {
        let values = &flat[start..start + spec.len()];
        start += spec.len();
        let (dtype, data): (_, Vec<u8>) = match i % 3 {
            0 => (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            1 => (Dtype::F16, values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()),
            _ => (Dtype::BF16, values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()),
        };
        index["weight_map"][&spec.name] = files[i % 3].into();
        parts[i % 3].push((spec.name, dtype, spec.shape, data));
    }
    for (file, part) in files.iter().zip(&parts) {
        let views = part
            .iter()
            .map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
        serialize_to_file(views, None, &folder.path().join(file)).unwrap();
    }
    fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert_eq!(read(folder.path()), flat);
}

#[test]
fn a_head_stored_beside_its_tied_embedding_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let flat = weights(3);
    let embedding: Vec<u8> = flat[..40 * 24].iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut bytes = crate::tiny::edited_safetensors(&flat, |header| {
        let start = flat.len() * 4;
        header["lm_head.weight"] =
            serde_json::json!({"dtype": "F32", "shape": [40, 24], "data_offsets": [start, start + embedding.len()]});
    });
    bytes.extend(&embedding);
    fs::write(folder.path().join("model.safetensors"), &bytes).unwrap();
    assert_eq!(read(folder.path()), flat);

    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(folder.path().join("model.safetensors"), &bytes).unwrap();
    let mut out = flat.clone();
    crate::tiny::assert_fails(read_model(folder.path(), &specs(), &mut out), &["`lm_head.weight` differs"]);
}
