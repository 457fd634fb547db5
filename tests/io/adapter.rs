//! `adapter_config.json` as PEFT writes it: what is read, and what is refused by name.

use std::path::Path;

use engine::io::adapter_files::{AdapterConfig, AdapterFolder};
use serde_json::{Value, json};

/// As peft 0.21 wrote it.
fn config() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora/begun/adapter_config.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn with(name: &str, value: Value) -> Value {
    let mut config = config();
    config[name] = value;
    config
}

#[test]
fn what_peft_writes_is_read_and_what_we_write_is_read_again() {
    let read = AdapterConfig::from_value(&config()).unwrap();
    assert_eq!((read.lora.rank, read.lora.alpha, read.lora.target_modules.len()), (4, 6.0, 7));
    assert_eq!(read.base.as_deref(), Some("gemma3_tiny"));
    assert_eq!(AdapterConfig::from_value(&read.to_value()).unwrap(), read);
    let scaled = AdapterConfig::from_value(&with("use_rslora", true.into())).unwrap();
    assert_eq!((read.lora.scaling(), scaled.lora.scaling()), (1.5, 3.0));
    let all = AdapterConfig::from_value(&with("target_modules", "all-linear".into())).unwrap();
    assert_eq!(all.lora.target_modules.len(), 7);
    let mut tied = with("modules_to_save", json!(["embed_tokens"]));
    assert!(AdapterConfig::from_value(&tied).unwrap_err().report().contains("ensure_weight_tying=True"));
    tied["ensure_weight_tying"] = true.into();
    let tied = AdapterConfig::from_value(&tied).unwrap();
    assert_eq!(AdapterConfig::from_value(&tied.to_value()).unwrap(), tied);
}

#[test]
fn options_that_make_another_model_are_refused_by_name() {
    for (name, value) in [
        ("peft_type", json!("IA3")),
        ("task_type", json!("SEQ_CLS")),
        ("bias", json!("lora_only")),
        ("use_dora", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("rank_pattern", json!({"q_proj": 2})),
        ("layers_to_transform", json!([1])),
        ("init_lora_weights", json!("pissa")),
        ("target_modules", json!(".*q_proj")),
        ("an_option_to_come", json!(3)),
        ("trainable_token_indices", json!([4])),
    ] {
        let report = AdapterConfig::from_value(&with(name, value)).unwrap_err().report();
        assert!(report.contains(&format!("`{name}`")) && report.contains("hint: "), "{report}");
    }
    for (name, value) in [("r", Value::Null), ("r", json!(1u64 << 40)), ("r", json!("four")), ("lora_alpha", json!([]))]
    {
        let report = AdapterConfig::from_value(&with(name, value)).unwrap_err().report();
        assert!(report.contains(&format!("`{name}`")), "{report}");
    }
    assert!(AdapterConfig::from_value(&json!([])).is_err());
}

#[test]
fn a_folder_without_weights_or_with_those_of_another_rank_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let model = engine::model::gemma3::config::Gemma3Config::load(&fixtures.join("gemma3_tiny")).unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), with("r", 3.into()).to_string()).unwrap();
    let adapter = AdapterFolder::open(folder.path()).unwrap();
    assert!(adapter.check(&model).unwrap_err().report().contains("adapter_model.safetensors"));
    let weights = folder.path().join("adapter_model.safetensors");
    std::fs::copy(fixtures.join("lora/begun/adapter_model.safetensors"), &weights).unwrap();
    let report = adapter.check(&model).unwrap_err().report();
    assert!(report.contains("has shape [4, ") && report.contains("asks for [3, "), "{report}");
    std::fs::write(folder.path().join("adapter_config.json"), with("target_modules", json!(["q_proj"])).to_string())
        .unwrap();
    let report = AdapterFolder::open(folder.path()).unwrap().check(&model).unwrap_err().report();
    assert!(report.contains("is not one that `adapter_config.json`"), "{report}");
}
