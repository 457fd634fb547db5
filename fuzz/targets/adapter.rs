//! `adapter_config.json`: what passes is saved as something that passes, and its table can be made or is refused.
#![no_main]

use engine::io::adapter_files::AdapterConfig;
use engine::model::gemma3::config::Gemma3Config;
use libfuzzer_sys::fuzz_target;
use serde_json::{from_slice, json};

fuzz_target!(|data: &[u8]| {
    let Ok(value) = from_slice(data) else { return };
    let Ok(adapter) = AdapterConfig::from_value(&value) else { return };
    let again = AdapterConfig::from_value(&adapter.to_value()).expect("a saved config can be read");
    assert_eq!(again, adapter);
    let model = Gemma3Config::from_value(json!({
        "model_type": "gemma3_text", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 56,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2
    }));
    let _ = adapter.lora.specs(&model.expect("it is sound"));
});
