//! `config.json` and `generation_config.json`: what is read, what is refused, what is written back.

use engine::model::gemma3::config::{Gemma3Config, LayerType::*};
use engine::model::gemma3::table::{ParamKind, parameter_count, parameter_specs, parameters};
use engine::model::generation_config::GenerationConfig;
use serde_json::{Value, json};

use crate::tiny::{assert_fails, config, config_value, config_with};

fn functiongemma() -> Gemma3Config {
    Gemma3Config::from_value(json!({
        "model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 640, "intermediate_size": 2048,
        "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "sliding_window": 512, "eos_token_id": 1,
    }))
    .unwrap()
}

#[test]
fn functiongemma_has_236_tensors_and_268098176_parameters() {
    let specs = parameter_specs(&functiongemma());
    assert_eq!(specs.len(), 236);
    assert_eq!(parameter_count(&specs), 268_098_176);
}

#[test]
fn missing_fields_get_the_defaults_of_transformers() {
    let config = functiongemma();
    assert_eq!((config.rms_norm_eps, config.query_pre_attn_scalar), (1e-6, 256.0));
    assert_eq!((config.rope_theta, config.rope_local_base_freq), (1e6, 1e4));
    assert_eq!(config.eos_token_id, [1]);
    let full: Vec<usize> = (0..18).filter(|&i| config.layer_types[i] == FullAttention).collect();
    assert_eq!(full, [5, 11, 17]);
}

#[test]
fn a_sliding_window_pattern_names_the_full_layers() {
    for key in ["sliding_window_pattern", "_sliding_window_pattern"] {
        let mut value = config_with(key, json!(2));
        value["num_hidden_layers"] = json!(5);
        value["layer_types"] = Value::Null;
        let config = Gemma3Config::from_value(value).unwrap();
        let expected = [SlidingAttention, FullAttention, SlidingAttention, FullAttention, SlidingAttention];
        assert_eq!(config.layer_types, expected);
    }
}

#[test]
fn rope_parameters_of_transformers_5_win_over_the_flat_fields() {
    let rope = json!({
        "full_attention": {"rope_type": "default", "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    });
    let config = Gemma3Config::from_value(config_with("rope_parameters", rope)).unwrap();
    assert_eq!((config.rope_theta, config.rope_local_base_freq), (5e5, 2e4));
}

#[test]
fn what_is_not_a_plain_gemma_3_text_model_is_refused_with_the_reason() {
    let scaled = json!({"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}});
    let cases = [
        ("model_type", json!("llama"), "`llama`"),
        ("model_type", json!("gemma3"), "multimodal"),
        ("model_type", Value::Null, "`model_type` is missing"),
        ("attn_logit_softcapping", json!(50.0), "caps its logits"),
        ("final_logit_softcapping", json!(30.0), "caps its logits"),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 8.0}), "`rope_scaling`"),
        ("rope_parameters", scaled, "`rope_scaling`"),
        ("rope_parameters", json!({"rope_theta": 1e6}), "`rope_parameters`"),
        ("attention_bias", json!(true), "`attention_bias`"),
        ("use_bidirectional_attention", json!(true), "`use_bidirectional_attention`"),
        ("hidden_activation", json!("silu"), "`silu`"),
        ("tie_word_embeddings", json!(false), "`tie_word_embeddings`"),
        ("quantization_config", json!({"bits": 4}), "`quantization_config`"),
    ];
    for (key, value, reason) in cases {
        assert_fails(Gemma3Config::from_value(config_with(key, value)), &[reason]);
    }
}

#[test]
fn impossible_sizes_are_refused_by_name() {
    let cases = [
        ("vocab_size", json!(0), "`vocab_size` is 0"),
        ("hidden_size", json!(0), "`hidden_size` is 0"),
        ("num_hidden_layers", json!(0), "`num_hidden_layers` is 0"),
        ("num_hidden_layers", json!(u64::MAX), "`num_hidden_layers`"),
        ("hidden_size", json!(1u64 << 40), "`hidden_size`"),
        ("hidden_size", json!(-3), "field `hidden_size` is wrong"),
        ("intermediate_size", Value::Null, "field `intermediate_size` is missing"),
        ("num_key_value_heads", json!(3), "`num_key_value_heads` 3"),
        ("num_key_value_heads", json!(0), "`num_key_value_heads` is 0"),
        ("head_dim", json!(7), "`head_dim` 7 is odd"),
        ("sliding_window", json!(0), "`sliding_window` is 0"),
        ("layer_types", json!(["full_attention"]), "1 entries for 2 layers"),
        ("layer_types", json!(["full_attention", "linear_attention"]), "linear_attention"),
        ("rms_norm_eps", json!(-1e-6), "`rms_norm_eps`"),
        ("query_pre_attn_scalar", json!(0), "`query_pre_attn_scalar` is 0"),
        ("eos_token_id", json!([1, 40]), "token id 40"),
        ("eos_token_id", json!("one"), "field `eos_token_id` is wrong"),
    ];
    for (key, value, reason) in cases {
        assert_fails(Gemma3Config::from_value(config_with(key, value)), &[reason]);
    }
    let mut no_pattern = config_with("sliding_window_pattern", json!(0));
    no_pattern["layer_types"] = Value::Null;
    assert_fails(Gemma3Config::from_value(no_pattern), &["`sliding_window_pattern` is 0"]);
    let mut huge = config_with("hidden_size", json!(1 << 20));
    huge["vocab_size"] = json!(1 << 20);
    assert_fails(Gemma3Config::from_value(huge), &["parameters"]);
}

#[test]
fn a_missing_or_broken_config_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert_fails(Gemma3Config::load(folder.path()), &["config.json", "hint: "]);
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    assert_fails(Gemma3Config::load(folder.path()), &["config.json` is not JSON"]);
    std::fs::write(folder.path().join("config.json"), "[]").unwrap();
    assert_fails(Gemma3Config::load(folder.path()), &["config.json", "not a JSON object"]);
}

#[test]
fn saving_keeps_unknown_fields_and_updates_the_dtype() {
    let saved = config().to_value("float32");
    assert_eq!(saved, config_with("dtype", json!("float32")));
    assert_eq!(Gemma3Config::from_value(saved).unwrap().head_dim, 10);
}

#[test]
fn saving_an_old_config_updates_torch_dtype_and_spells_out_the_layers() {
    let mut value = config_value();
    let fields = value.as_object_mut().unwrap();
    fields.remove("dtype");
    fields.remove("layer_types");
    fields.insert("torch_dtype".into(), json!("float16"));
    let saved = Gemma3Config::from_value(value).unwrap().to_value("bfloat16");
    assert_eq!((&saved["torch_dtype"], saved.get("dtype")), (&json!("bfloat16"), None));
    assert_eq!(saved["layer_types"], json!(["sliding_attention", "sliding_attention"]));
}

#[test]
fn the_parameter_table_keeps_fused_products_adjacent_and_decays_matrices_only() {
    let specs = parameter_specs(&config());
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let layer_1 = [
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.v_proj.weight",
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.1.self_attn.k_norm.weight",
        "model.layers.1.self_attn.o_proj.weight",
        "model.layers.1.post_attention_layernorm.weight",
        "model.layers.1.pre_feedforward_layernorm.weight",
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.1.post_feedforward_layernorm.weight",
    ];
    assert_eq!(names[0], "model.embed_tokens.weight");
    assert_eq!(names[14..27], layer_1);
    assert_eq!(names[27], "model.norm.weight");
    let shapes: Vec<&[usize]> = specs[14..27].iter().map(|spec| spec.shape.as_slice()).collect();
    let expected: [&[usize]; 13] = [
        &[24],
        &[40, 24],
        &[20, 24],
        &[20, 24],
        &[10],
        &[10],
        &[24, 40],
        &[24],
        &[24],
        &[56, 24],
        &[56, 24],
        &[24, 56],
        &[24],
    ];
    assert_eq!(shapes, expected);
    for parameter in parameters(&config()) {
        let is_matrix = parameter.spec.shape.len() == 2;
        assert_eq!(parameter.spec.decay, is_matrix, "{parameter:?}");
        assert_eq!((parameter.kind == ParamKind::Matrix, parameter.trainable), (is_matrix, true), "{parameter:?}");
    }
}

#[test]
fn generation_settings_come_from_the_file_or_from_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let absent = GenerationConfig::load(folder.path(), &config()).unwrap();
    assert_eq!((absent.do_sample, absent.top_k, absent.top_p, absent.temperature), (false, 50, 1.0, 1.0));
    assert_eq!(absent.eos_token_id, [1, 9]);
    assert_eq!(absent.to_value(), json!({"eos_token_id": [1, 9]}));

    let text = r#"{"cache_implementation": "hybrid", "do_sample": true, "eos_token_id": [1, 50, 106], "top_k": 64, "top_p": 0.95}"#;
    std::fs::write(folder.path().join("generation_config.json"), text).unwrap();
    let read = GenerationConfig::load(folder.path(), &config()).unwrap();
    assert_eq!((read.do_sample, read.top_k, read.top_p), (true, 64, 0.95));
    assert_eq!(read.eos_token_id, [1, 50, 106]);
    assert_eq!(read.to_value(), serde_json::from_str::<Value>(text).unwrap());
}

#[test]
fn generation_settings_out_of_range_are_refused() {
    for (field, value) in [("top_p", 0.0), ("top_p", 1.5), ("temperature", 0.0), ("temperature", -1.0)] {
        let result = GenerationConfig::from_value(json!({ field: value }), &config());
        assert_fails(result, &[&format!("`{field}` is {value}")]);
    }
    assert_fails(GenerationConfig::from_value(json!({"top_k": -1}), &config()), &["field `top_k` is wrong"]);
}
