//! Damaged calls: faults lie inside the text, and an answer is right that is compared with what was read from it.

use engine::chat::functiongemma::parser::parse_output;
use engine::eval::verdict::{Expected, judge};

use crate::damage::{each_damaged, seeds};

#[test]
fn damaged_calls_are_read_and_judged() {
    each_damaged(seeds("parser"), 2000, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let output = parse_output(&text);
        assert!(output.faults.iter().all(|fault| text.is_char_boundary(fault.at)));
        let tools: Vec<String> = output.calls.iter().map(|call| call.name.clone()).collect();
        let valid = output.faults.is_empty() && !output.calls.is_empty();
        let expected = Expected { calls: output.calls, text: None };
        assert!(judge(&text, &expected, &tools).arguments_correct || !valid);
    });
}
