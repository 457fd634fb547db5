//! Declarations of tools: what passes passes again, unchanged.
#![no_main]

use engine::data::tools::{dropped_property_warnings, normalize_tools};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, from_slice};

fuzz_target!(|data: &[u8]| {
    let Ok(value) = from_slice::<Value>(data) else { return };
    if let Ok((tools, _)) = normalize_tools(&value) {
        dropped_property_warnings(&tools);
        let (again, _) = normalize_tools(&Value::Array(tools.clone())).expect("they have passed");
        assert_eq!(again, tools);
    }
});
