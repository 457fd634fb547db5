//! GGUF in: block formats against ggml's decoder, a whole model through `import`.

use std::fs;
use std::path::Path;

use engine::io::folder::Existing;
use engine::io::gguf::{GgufFile, MetaValue};
use engine::io::import::import_gguf;
use engine::io::safetensors::{SaveDtype, read_model};
use engine::io::source::{ModelSource, resolve_model};
use engine::model::gemma3::config::{Gemma3Config, LayerType};
use engine::model::generation_config::GenerationConfig;
use half::bf16;

use crate::tiny::{GgufBuilder, assert_fails, config_value, config_with, specs, tokenizer_folder, weights};

fn golden() -> GgufFile {
    GgufFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/io/blocks.gguf")).unwrap()
}

#[test]
fn every_block_format_decodes_to_the_bit_as_in_ggml() {
    let file = golden();
    let formats = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"];
    for format in formats {
        let elements: usize = file.shape(format).unwrap().iter().product();
        let (mut decoded, mut expected) = (vec![0.0; elements], vec![0.0; elements]);
        file.read_tensor(format, &mut decoded).unwrap();
        file.read_tensor(&format!("{format}.expected"), &mut expected).unwrap();
        for (i, (a, b)) in decoded.iter().zip(&expected).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "{format}, element {i}: {a} is not {b}");
        }
    }
    assert_eq!(file.tensor_names().count(), 2 * formats.len());
}

#[test]
fn metadata_written_by_the_gguf_package_is_read() {
    let file = golden();
    assert_eq!(file.metadata("test.text"), Some(&MetaValue::Text("three words here".into())));
    assert_eq!(file.metadata("test.array"), Some(&MetaValue::Array(3)));
    assert_eq!(file.metadata("absent"), None);
}

#[test]
fn an_imported_model_has_the_weights_names_and_config_of_the_original() {
    let folder = tempfile::tempdir().unwrap();
    let flat = weights(5);
    for version in [2, 3] {
        let mut builder = GgufBuilder::tiny(&flat);
        builder.version = version;
        let file = builder.write(folder.path());
        let source = tokenizer_folder(folder.path());
        fs::write(source.join("chat_template.jinja"), "the template").unwrap();
        let output =
            import_gguf(&file, &source, &folder.path().join("out"), Existing::Overwrite, SaveDtype::F32).unwrap().place;

        let mut read = vec![0.0; flat.len()];
        read_model(&output, &specs(), &mut read).unwrap();
        assert_eq!(read, flat);
        assert_eq!(fs::read_to_string(output.join("chat_template.jinja")).unwrap(), "the template");
        assert_eq!(fs::read(output.join("tokenizer.json")).unwrap(), fs::read(source.join("tokenizer.json")).unwrap());

        let config = Gemma3Config::load(&output).unwrap();
        assert_eq!((config.vocab_size, config.hidden_size, config.intermediate_size), (40, 24, 56));
        assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (4, 2, 10));
        assert_eq!((config.sliding_window, config.max_position_embeddings), (3, 128));
        assert_eq!((config.rms_norm_eps, config.rope_theta, config.rope_local_base_freq), (1e-6, 1e6, 1e4));
        assert_eq!((config.query_pre_attn_scalar, config.layer_types), (10.0, vec![LayerType::SlidingAttention; 2]));
        let generation = GenerationConfig::load(&output, &Gemma3Config::load(&output).unwrap()).unwrap();
        assert_eq!(generation.eos_token_id, [1]);
    }
}

#[test]
fn a_config_beside_the_tokenizer_is_kept_when_it_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let file = GgufBuilder::tiny(&weights(5)).write(folder.path());
    let source = tokenizer_folder(folder.path());
    fs::write(source.join("config.json"), config_value().to_string()).unwrap();
    let output =
        import_gguf(&file, &source, &folder.path().join("out"), Existing::Refuse, SaveDtype::Bf16).unwrap().place;
    let saved: serde_json::Value = serde_json::from_slice(&fs::read(output.join("config.json")).unwrap()).unwrap();
    assert_eq!(saved, config_value());
}

#[test]
fn a_config_that_contradicts_the_gguf_is_refused_with_both_values() {
    let folder = tempfile::tempdir().unwrap();
    let file = GgufBuilder::tiny(&weights(5)).write(folder.path());
    let source = tokenizer_folder(folder.path());
    let output = folder.path().join("out");
    for (field, value) in [("sliding_window", 4), ("num_attention_heads", 2), ("rope_theta", 500000)] {
        fs::write(source.join("config.json"), config_with(field, value.into()).to_string()).unwrap();
        let result = import_gguf(&file, &source, &output, Existing::Refuse, SaveDtype::Bf16);
        assert_fails(result, &[&format!("`{field}` in `config.json` is {value}")]);
        assert!(!output.exists());
    }
}

#[test]
fn a_gguf_with_its_tokenizer_beside_it_is_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let flat = weights(6);
    let file = GgufBuilder::tiny(&flat).write(folder.path());
    let spec = file.to_str().unwrap();
    assert_fails(resolve_model(spec), &["no `tokenizer.json` beside", "engine import --gguf"]);

    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let source = resolve_model(spec).unwrap();
    assert_eq!(source, ModelSource::Gguf(file.clone()));
    assert_eq!(source.folder(), folder.path());
    let config = source.load_config().unwrap();
    assert_eq!(source.load_flat(&config).unwrap(), flat);
}

#[test]
fn weights_read_as_bf16_are_those_of_f32_rounded() {
    let folder = tempfile::tempdir().unwrap();
    let file = GgufBuilder::tiny(&weights(6)).write(folder.path());
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    // The second one's embedding is read in two parts.
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/model");
    for source in [ModelSource::Gguf(file), ModelSource::Folder(quickstart)] {
        let config = source.load_config().unwrap();
        let flat = source.load_flat(&config).unwrap();
        let mut rounded = vec![bf16::NAN; flat.len()];
        source.load_rounded(&config, &mut rounded).unwrap();
        let expected: Vec<bf16> = flat.into_iter().map(bf16::from_f32).collect();
        assert!(rounded == expected, "{source:?}");
    }
}

#[test]
fn import_asks_for_a_tokenizer_before_it_reads_anything() {
    let folder = tempfile::tempdir().unwrap();
    let result = import_gguf(
        Path::new("absent.gguf"),
        folder.path(),
        &folder.path().join("out"),
        Existing::Refuse,
        SaveDtype::Bf16,
    );
    assert_fails(result, &["has no `tokenizer.json`", "--tokenizer"]);
    assert!(!folder.path().join("out").exists());
}
