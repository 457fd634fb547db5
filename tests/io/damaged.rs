//! Damaged headers, indexes and configs never panic, and what passes keeps its promises.

use std::path::{Component, Path};

use engine::io::adapter_files::AdapterConfig;
use engine::io::gguf::{GgufFile, check_header, decode_blocks};
use engine::io::safetensors::{Header, parse_index, read_model};
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::parameter_specs;
use engine::model::generation_config::GenerationConfig;
use serde_json::Value;

use crate::damage::{each_damaged, seeds};
use crate::tiny::{config, config_value, edited_safetensors, specs, weights};

const CASES: u32 = 500;

#[test]
fn damaged_safetensors_are_refused_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    each_damaged(vec![edited_safetensors(&weights(1), |_| {})], CASES, |bytes| {
        if Header::parse(bytes, bytes.len() as u64).is_ok() {
            std::fs::write(&path, bytes).unwrap();
            let _ = read_model(folder.path(), &specs(), &mut weights(1));
        }
    });
}

#[test]
fn damaged_headers_of_safetensors_are_refused_or_read() {
    each_damaged(seeds("safetensors"), CASES, |bytes| {
        let text = bytes.get(1..).unwrap_or_default();
        let header = [&(text.len() as u64).to_le_bytes()[..], text].concat();
        for size in [header.len() + 40, header.len() + 56] {
            let _ = Header::parse(&header, size as u64);
        }
    });
}

#[test]
fn damaged_indexes_of_shards_name_files_of_the_folder_alone() {
    each_damaged(seeds("shard_index"), CASES, |bytes| {
        let names = std::str::from_utf8(bytes).ok().and_then(|text| parse_index(text).ok());
        for name in names.unwrap_or_default() {
            let parts: Vec<_> = Path::new(&name).components().collect();
            assert!(matches!(parts[..], [Component::Normal(_)]), "{name:?}");
        }
    });
}

#[test]
fn damaged_ggufs_are_refused_or_their_tensors_are_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    each_damaged(seeds("gguf"), CASES, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        let opened = GgufFile::open(&path);
        assert_eq!(opened.is_ok(), check_header(bytes).is_ok());
        let Ok(file) = opened else { return };
        let _ = file.config(folder.path());
        for name in file.tensor_names() {
            let elements = file.shape(name).unwrap().iter().product();
            let _ = file.read_tensor(name, &mut vec![0.0; elements]);
        }
    });
}

#[test]
fn damaged_blocks_are_decoded_or_refused() {
    each_damaged(seeds("blocks"), CASES, |bytes| {
        if let Some((&kind, bytes)) = bytes.split_first() {
            let _ = decode_blocks(kind.into(), bytes);
        }
    });
}

#[test]
fn a_damaged_config_that_passes_is_saved_as_one_that_passes() {
    each_damaged(vec![config_value().to_string().into_bytes()], CASES, |bytes| {
        let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
        if let Ok(config) = Gemma3Config::from_value(value) {
            parameter_specs(&config);
            Gemma3Config::from_value(config.to_value("bfloat16")).unwrap();
        }
    });
}

#[test]
fn a_damaged_config_of_an_adapter_that_passes_is_saved_as_one_that_passes() {
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora/begun/adapter_config.json");
    each_damaged(vec![std::fs::read(seed).unwrap()], CASES, |bytes| {
        let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
        if let Ok(adapter) = AdapterConfig::from_value(&value) {
            let _ = adapter.lora.specs(&config());
            assert_eq!(AdapterConfig::from_value(&adapter.to_value()).unwrap(), adapter);
        }
    });
}

#[test]
fn a_damaged_generation_config_that_passes_is_saved_as_one_that_passes() {
    let seed = br#"{"do_sample": true, "top_k": 64, "top_p": 0.95, "temperature": 1.0, "eos_token_id": [1, 9]}"#;
    each_damaged(vec![seed.to_vec()], CASES, |bytes| {
        let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
        if let Ok(generation) = GenerationConfig::from_value(value, &config()) {
            GenerationConfig::from_value(generation.to_value(), &config()).unwrap();
        }
    });
}
