//! What a model generates: calls are read, and the answer is judged.
#![no_main]

use engine::chat::functiongemma::parser::parse_output;
use engine::eval::verdict::{Expected, judge};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let output = parse_output(&text);
    for fault in &output.faults {
        assert!(text.is_char_boundary(fault.at), "{fault}");
    }
    // An answer is right that is compared with what was read from it.
    let tools: Vec<String> = output.calls.iter().map(|call| call.name.clone()).collect();
    let valid = output.faults.is_empty() && !output.calls.is_empty();
    let expected = Expected { calls: output.calls, text: None };
    assert!(judge(&text, &expected, &tools).arguments_correct || !valid);
});
