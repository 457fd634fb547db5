//! `config.json` and `generation_config.json`: what passes is saved as something that passes.
#![no_main]

use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::parameter_specs;
use engine::model::generation_config::GenerationConfig;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, from_slice, json};

fuzz_target!(|data: &[u8]| {
    let Ok(value) = from_slice::<Value>(data) else { return };
    if let Ok(config) = Gemma3Config::from_value(value.clone()) {
        parameter_specs(&config);
        Gemma3Config::from_value(config.to_value("bfloat16")).expect("a saved config can be read");
    }
    let config = Gemma3Config::from_value(json!({
        "model_type": "gemma3_text", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 56,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2
    }));
    let config = config.expect("it is sound");
    if let Ok(generation) = GenerationConfig::from_value(value, &config) {
        GenerationConfig::from_value(generation.to_value(), &config).expect("a saved config can be read");
    }
});
