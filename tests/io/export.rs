//! GGUF out: blocks against the gguf package's, a whole model out and in again, what its header says.

use std::fs;
use std::path::{Path, PathBuf};

use engine::io::export::export_gguf;
use engine::io::folder::Existing;
use engine::io::gguf::{GgufFile, MetaValue};
use engine::io::gguf_type::GgufType;
use engine::io::gguf_vocab::GgufVocab;
use engine::io::import::import_gguf;
use engine::io::safetensors::{SaveDtype, read_model};
use engine::io::source::ModelSource;
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::{ParamKind, parameter_specs, parameters};
use engine::model::generation_config::GenerationConfig;
use serde_json::json;

use crate::exportable::{
    BYTES, MERGED, PIECES, SINGLES, VOCAB, any_weights, config_value, plain_weights, tokenizer, write,
};
use crate::tiny::names;

const TYPES: [GgufType; 5] = [GgufType::F32, GgufType::F16, GgufType::Bf16, GgufType::Q8_0, GgufType::Q4_0];

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/io/quantized").join(name)).unwrap()
}

/// Exports a model with these weights from `folder`, and gives the file.
fn exported(folder: &Path, kind: GgufType, flat: &[f32]) -> PathBuf {
    write(&folder.join("model"), &config_value(), flat);
    let file = folder.join("tiny.gguf");
    let done = export_gguf(&ModelSource::Folder(folder.join("model")), kind, &file, true, |_, _| Ok(())).unwrap();
    assert_eq!(done.bytes, fs::metadata(&file).unwrap().len());
    assert!(done.warnings.is_empty(), "{:?}", done.warnings);
    file
}

/// The weights of a GGUF as `engine import` gives them.
fn imported(folder: &Path, file: &Path) -> Vec<f32> {
    let output = folder.join("imported");
    import_gguf(file, &folder.join("model"), &output, Existing::Overwrite, SaveDtype::F32).unwrap();
    let config = Gemma3Config::load(&output).unwrap();
    let mut flat = plain_weights();
    read_model(&output, &parameter_specs(&config), &mut flat).unwrap();
    flat
}

#[test]
fn numbers_become_the_bytes_of_the_gguf_package() {
    let values: Vec<f32> =
        golden("values.f32").as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    for kind in [GgufType::F16, GgufType::Bf16, GgufType::Q8_0, GgufType::Q4_0] {
        let expected = golden(kind.name());
        let mut bytes = vec![0; expected.len()];
        kind.encode(&values, &mut bytes);
        let differs = bytes.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{}: byte of the first difference", kind.name());
    }
}

#[test]
fn weights_that_a_type_holds_come_back_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, any) = (plain_weights(), any_weights());
    for (kind, flat) in
        [(GgufType::F32, &plain), (GgufType::F16, &plain), (GgufType::Bf16, &plain), (GgufType::F32, &any)]
    {
        let file = exported(folder.path(), kind, flat);
        let found = imported(folder.path(), &file);
        let config = Gemma3Config::from_value(config_value()).unwrap();
        let mut at = 0;
        for parameter in parameters(&config) {
            let range = at..at + parameter.spec.len();
            at = range.end;
            // 1 is added to norms and taken away again: exact for plain numbers, a rounding for others.
            let allowed = if parameter.kind == ParamKind::Norm { f32::EPSILON / 2.0 } else { 0.0 };
            for (a, b) in found[range.clone()].iter().zip(&flat[range]) {
                let exact = std::ptr::eq(flat, &plain);
                assert!((a - b).abs() <= if exact { 0.0 } else { allowed }, "{} {}", kind.name(), parameter.spec.name);
            }
        }
    }
}

#[test]
fn what_is_read_back_is_what_eval_rounds_to() {
    let folder = tempfile::tempdir().unwrap();
    let table = parameters(&Gemma3Config::from_value(config_value()).unwrap());
    for kind in TYPES {
        let file = exported(folder.path(), kind, &any_weights());
        let mut rounded = any_weights();
        kind.round(&table, &mut rounded).unwrap();
        assert!(imported(folder.path(), &file) == rounded, "{}", kind.name());
        assert!(rounded != any_weights(), "{}: norms are rounded at least", kind.name());
    }
}

#[test]
fn norms_stay_f32_and_the_embedding_of_a_4_bit_file_has_8() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, embedding, matrix) in [(GgufType::Q8_0, 34, 34), (GgufType::Q4_0, 34, 18), (GgufType::Bf16, 64, 64)] {
        let file = GgufFile::open(&exported(folder.path(), kind, &plain_weights())).unwrap();
        for parameter in parameters(&Gemma3Config::from_value(config_value()).unwrap()) {
            let bytes_of_32 = match (parameter.kind, parameter.gguf_name.as_str()) {
                (ParamKind::Norm, _) => 128,
                (_, "token_embd.weight") => embedding,
                _ => matrix,
            };
            let size = (parameter.spec.len() / 32 * bytes_of_32) as u64;
            assert_eq!(file.size(&parameter.gguf_name), Some(size), "{} {}", kind.name(), parameter.gguf_name);
            assert_eq!(file.shape(&parameter.gguf_name), Some(&parameter.spec.shape[..]));
        }
    }
}

#[test]
fn the_header_says_what_llama_cpp_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = GgufFile::open(&exported(folder.path(), GgufType::Q8_0, &plain_weights())).unwrap();
    let text = |text: &str| MetaValue::Text(text.into());
    let number = MetaValue::Unsigned;
    for (key, value) in [
        ("general.architecture", text("gemma3")),
        ("general.type", text("model")),
        ("general.name", text("tiny")),
        ("general.file_type", number(7)),
        ("general.quantization_version", number(2)),
        ("gemma3.context_length", number(256)),
        ("gemma3.embedding_length", number(64)),
        ("gemma3.block_count", number(2)),
        ("gemma3.feed_forward_length", number(96)),
        ("gemma3.attention.head_count", number(4)),
        ("gemma3.attention.head_count_kv", number(2)),
        ("gemma3.attention.key_length", number(32)),
        ("gemma3.attention.value_length", number(32)),
        ("gemma3.attention.sliding_window", number(16)),
        ("gemma3.attention.sliding_window_pattern", number(2)),
        ("gemma3.attention.layer_norm_rms_epsilon", MetaValue::Float(f64::from(1e-6f32))),
        ("gemma3.rope.freq_base", MetaValue::Float(1e6)),
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.pre", text("default")),
        ("tokenizer.ggml.tokens", MetaValue::Array(VOCAB as u64)),
        ("tokenizer.ggml.scores", MetaValue::Array(VOCAB as u64)),
        ("tokenizer.ggml.token_type", MetaValue::Array(VOCAB as u64)),
        ("tokenizer.ggml.bos_token_id", number(2)),
        ("tokenizer.ggml.eos_token_id", number(1)),
        ("tokenizer.ggml.eot_token_id", number(106)),
        ("tokenizer.ggml.eom_token_id", number(50)),
        ("tokenizer.ggml.eos_token_ids", MetaValue::Array(3)),
        ("tokenizer.ggml.unknown_token_id", number(3)),
        ("tokenizer.ggml.padding_token_id", number(0)),
        ("tokenizer.ggml.add_bos_token", MetaValue::Bool(true)),
        ("tokenizer.ggml.add_eos_token", MetaValue::Bool(false)),
        ("tokenizer.ggml.add_space_prefix", MetaValue::Bool(false)),
        ("tokenizer.chat_template", text("{{ bos_token }}{{ messages[0].content }}")),
    ] {
        assert_eq!(file.metadata(key), Some(&value), "{key}");
    }
    assert_eq!(file.metadata("gemma3.rope.freq_base_swa"), None, "it is the usual one");
}

#[test]
fn a_gguf_without_a_config_beside_it_brings_layers_and_stop_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let file = exported(folder.path(), GgufType::F16, &plain_weights());
    fs::remove_file(folder.path().join("model/config.json")).unwrap();
    fs::remove_file(folder.path().join("model/generation_config.json")).unwrap();
    imported(folder.path(), &file);
    let config = Gemma3Config::load(&folder.path().join("imported")).unwrap();
    let original = Gemma3Config::from_value(config_value()).unwrap();
    assert_eq!(config.layer_types, original.layer_types);
    let generation = GenerationConfig::load(&folder.path().join("imported"), &config).unwrap();
    assert_eq!(generation.eos_token_id, [1, 106, 50]);
}

#[test]
fn a_tokenizer_becomes_texts_scores_and_types() {
    let vocab = GgufVocab::parse(&tokenizer().to_string(), VOCAB).unwrap();
    assert_eq!([vocab.tokens.len(), vocab.scores.len(), vocab.types.len()], [VOCAB; 3]);
    let all = |range: std::ops::Range<usize>, score: f32, kind: i32| {
        range.for_each(|id| assert_eq!((vocab.scores[id], vocab.types[id]), (score, kind), "{}", vocab.tokens[id]));
    };
    let (normal, control, user_defined, unused, byte) = (1, 3, 4, 5, 6);
    all(0..5, -1000.0, control);
    all(5..6, -1000.0, user_defined);
    all(6..46, -1000.0, control);
    all(46..53, -1000.0, user_defined);
    all(53..107, -1000.0, control);
    all(107..110, -1000.0, user_defined);
    all(BYTES..PIECES, 0.0, byte);
    for (rank, (left, right)) in MERGED.iter().enumerate() {
        assert_eq!(vocab.tokens[PIECES + rank], format!("{left}{right}"));
        all(PIECES + rank..PIECES + rank + 1, -(rank as f32), normal);
    }
    assert!(vocab.scores[SINGLES..SINGLES + 6].iter().all(|score| *score < -3.0));
    all(SINGLES + 6..VOCAB, -10000.0, unused);
    assert_eq!((vocab.tokens[48].as_str(), vocab.tokens[109].as_str()), ("<start_function_call>", "  "));
    assert_eq!(vocab.tokens[SINGLES], "\u{2581}");
}

#[test]
fn scores_follow_the_merges_and_not_the_ids() {
    let mut turned = tokenizer();
    turned["model"]["merges"].as_array_mut().unwrap().swap(0, 2);
    let vocab = GgufVocab::parse(&turned.to_string(), VOCAB).unwrap();
    assert_eq!(vocab.scores[PIECES..SINGLES], [-2.0, -1.0, 0.0, -3.0]);
    // Older files write a pair as one string.
    turned["model"]["merges"] = json!(["i n", "\u{2581} th", "t h", "th e"]);
    assert_eq!(GgufVocab::parse(&turned.to_string(), VOCAB).unwrap().scores, vocab.scores);
}

#[test]
fn ollama_gets_a_modelfile_that_knows_functiongemma() {
    let folder = tempfile::tempdir().unwrap();
    exported(folder.path(), GgufType::Q4_0, &plain_weights());
    let text = fs::read_to_string(folder.path().join("Modelfile")).unwrap();
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "FROM ./tiny.gguf",
            "TEMPLATE {{ .Prompt }}",
            "RENDERER functiongemma",
            "PARSER functiongemma",
            "PARAMETER temperature 1",
            "PARAMETER top_k 64",
            "PARAMETER top_p 0.95",
        ]
    );
    assert_eq!(names(folder.path()), ["Modelfile", "model", "tiny.gguf"]);
}

#[test]
fn a_gguf_is_exported_again_as_another() {
    let folder = tempfile::tempdir().unwrap();
    let first = exported(folder.path(), GgufType::F32, &plain_weights());
    let beside = folder.path().join("model/beside.gguf");
    fs::rename(first, &beside).unwrap();
    let again = folder.path().join("again.gguf");
    export_gguf(&ModelSource::Gguf(beside), GgufType::Bf16, &again, false, |_, _| Ok(())).unwrap();
    assert!(imported(folder.path(), &again) == plain_weights());
}

#[test]
#[ignore = "writes a model to ENGINE_EXPORTABLE_MODEL, for scripts/check-gguf"]
fn a_model_for_other_programs() {
    write(Path::new(&std::env::var_os("ENGINE_EXPORTABLE_MODEL").unwrap()), &config_value(), &any_weights());
}
