//! Models that cannot be exported, and places that cannot be written: an error that says why, and nothing left.

use std::fs;
use std::path::Path;

use engine::error::{Error, Result};
use engine::io::export::{Exported, export_gguf};
use engine::io::gguf_type::GgufType;
use engine::io::gguf_vocab::GgufVocab;
use engine::io::source::ModelSource;
use serde_json::{Value, json};

use crate::damage::{each_damaged, seeds};
use crate::exportable::{VOCAB, config_value, plain_weights, tokenizer, write};
use crate::tiny::{assert_fails, names};

fn export(folder: &Path, kind: GgufType, output: &Path) -> Result<Exported> {
    export_gguf(&ModelSource::Folder(folder.join("model")), kind, output, false, |_, _| Ok(()))
}

/// A folder with the model, changed by `edit`, whose export must fail with `parts` and leave nothing.
fn refused(kind: GgufType, edit: impl FnOnce(&Path), parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model"), &config_value(), &plain_weights());
    edit(&folder.path().join("model"));
    assert_fails(export(folder.path(), kind, &folder.path().join("out.gguf")), parts);
    assert_eq!(names(folder.path()), ["model"]);
}

fn with_config(key: &str, value: Value) -> impl FnOnce(&Path) {
    let mut config = config_value();
    config[key] = value;
    move |model| fs::write(model.join("config.json"), config.to_string()).unwrap()
}

/// Replaces the first weight of the embedding.
fn with_weight(weight: f32) -> impl FnOnce(&Path) {
    move |model| {
        let mut flat = plain_weights();
        flat[7] = weight;
        write(model, &config_value(), &flat);
    }
}

#[test]
fn rows_that_are_no_whole_blocks_are_named() {
    let odd = |model: &Path| {
        let mut config = config_value();
        config["intermediate_size"] = json!(80);
        let removed = 2 * 3 * 16 * 64;
        let flat = plain_weights();
        write(model, &config, &flat[removed..]);
    };
    refused(GgufType::Q8_0, odd, &["model.layers.0.mlp.down_proj.weight", "[64, 80]", "blocks of 32", "hint: "]);
}

#[test]
fn a_model_without_a_tokenizer_or_with_another_kind_is_refused() {
    refused(
        GgufType::F32,
        |model| fs::remove_file(model.join("tokenizer.json")).unwrap(),
        &["has no `tokenizer.json`", "hint: "],
    );
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/model/tokenizer.json");
    let other = |model: &Path| {
        fs::copy(quickstart, model.join("tokenizer.json")).unwrap();
    };
    refused(GgufType::F32, other, &["tokenizer.json` cannot be exported", "not of Gemma's kind", "hint: "]);
    for (part, value) in [
        ("/model/byte_fallback", json!(false)),
        ("/normalizer/content", json!("_")),
        ("/normalizer", Value::Null),
        ("/pre_tokenizer", json!({"type": "ByteLevel"})),
        ("/model/type", json!("Unigram")),
    ] {
        let mut changed = tokenizer();
        *changed.pointer_mut(part).unwrap() = value;
        assert_fails(GgufVocab::parse(&changed.to_string(), VOCAB), &["not of Gemma's kind"]);
    }
}

#[test]
fn two_tokens_with_one_id_are_refused_and_ids_beyond_the_embedding_left_out() {
    let mut changed = tokenizer();
    changed["model"]["vocab"]["more"] = json!(370);
    assert_fails(GgufVocab::parse(&changed.to_string(), VOCAB), &["`more`", "370"]);
    changed["model"]["vocab"]["more"] = json!(5000);
    assert_eq!(GgufVocab::parse(&changed.to_string(), VOCAB).unwrap().tokens.len(), VOCAB);
}

#[test]
fn what_llama_cpp_would_compute_otherwise_is_refused() {
    let full = "full_attention";
    refused(GgufType::F32, with_config("query_pre_attn_scalar", json!(16)), &["`query_pre_attn_scalar` is 16"]);
    refused(GgufType::F32, with_config("layer_types", json!([full, "sliding_attention"])), &["`layer_types`"]);
    refused(GgufType::F32, with_config("max_position_embeddings", json!(1u64 << 33)), &["max_position_embeddings"]);
}

#[test]
fn a_weight_that_a_type_does_not_hold_is_named() {
    let parts = |weight: &'static str| ["model.embed_tokens.weight", weight, "element 7", "too large for"];
    refused(GgufType::F16, with_weight(70000.0), &parts("70000"));
    refused(GgufType::Q8_0, with_weight(-1e7), &parts("-10000000"));
    refused(GgufType::Bf16, with_weight(f32::MAX), &parts("element 7"));
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model"), &config_value(), &plain_weights());
    with_weight(65504.0)(&folder.path().join("model"));
    export(folder.path(), GgufType::F16, &folder.path().join("out.gguf")).unwrap();
}

#[test]
fn weights_that_are_cut_short_leave_nothing() {
    let cut = |model: &Path| {
        let file = fs::File::options().write(true).open(model.join("model.safetensors")).unwrap();
        file.set_len(5000).unwrap();
    };
    refused(GgufType::F32, cut, &["model.safetensors", "hint: "]);
}

#[test]
fn nothing_is_replaced_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let (at, model) = (folder.path(), folder.path().join("model"));
    write(&model, &config_value(), &plain_weights());
    fs::write(at.join("there.gguf"), "mine").unwrap();
    assert_fails(export(at, GgufType::F32, &at.join("there.gguf")), &["exists already", "--overwrite"]);
    assert_fails(export(at, GgufType::F32, &model), &["is a folder", "model.gguf"]);
    assert_fails(export(at, GgufType::F32, &at.join("no/out.gguf")), &["there is no folder", "no"]);
    fs::write(at.join("Modelfile"), "FROM other\n").unwrap();
    assert_fails(export(at, GgufType::F32, &at.join("out.gguf")), &["Modelfile", "not made by", "--overwrite"]);
    assert_eq!(fs::read(at.join("there.gguf")).unwrap(), b"mine");
    assert_eq!(names(at), ["Modelfile", "model", "there.gguf"]);

    export_gguf(&ModelSource::Folder(model), GgufType::F32, &at.join("there.gguf"), true, |_, _| Ok(())).unwrap();
    assert!(fs::read(at.join("there.gguf")).unwrap().starts_with(b"GGUF"));
    // A Modelfile of ours makes way for the next one.
    export(at, GgufType::Q8_0, &at.join("next.gguf")).unwrap();
    assert!(fs::read_to_string(at.join("Modelfile")).unwrap().contains("FROM ./next.gguf\n"));
}

#[test]
fn an_export_that_is_stopped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write(&model, &config_value(), &plain_weights());
    let stop = |done, total| if done == 5 { Err(Error::interrupted(format!("{done} of {total}"))) } else { Ok(()) };
    let result = export_gguf(&ModelSource::Folder(model), GgufType::F32, &folder.path().join("out.gguf"), false, stop);
    assert_fails(result, &["interrupted", "5 of 28"]);
    assert_eq!(names(folder.path()), ["model"]);
}

#[test]
fn stop_tokens_without_a_place_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write(&model, &config_value(), &plain_weights());
    fs::write(model.join("generation_config.json"), r#"{"eos_token_id": [49, 1, 106, 50, 7]}"#).unwrap();
    let done = export(folder.path(), GgufType::F32, &folder.path().join("out.gguf")).unwrap();
    assert!(
        done.warnings[0].contains("three stop tokens") && done.warnings[0].contains("49, 7"),
        "{:?}",
        done.warnings
    );
}

#[test]
fn damaged_tokenizers_are_refused_or_listed_whole() {
    let ours = tokenizer().to_string().into_bytes();
    each_damaged([seeds("tokenizer"), vec![ours]].concat(), 500, |bytes| {
        let Ok(json) = std::str::from_utf8(bytes) else { return };
        if let Ok(vocab) = GgufVocab::parse(json, VOCAB) {
            assert_eq!([vocab.tokens.len(), vocab.scores.len(), vocab.types.len()], [VOCAB; 3]);
        }
    });
}
