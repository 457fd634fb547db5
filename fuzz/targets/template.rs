//! Chat templates, given a hostile row: plain, and with their control tokens marked.
#![no_main]

use engine::chat::control::{ControlTokens, Marks};
use engine::chat::template::ChatTemplate;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const CONTROL: [(&str, bool); 4] = [("<bos>", true), ("<escape>", false), ("<start_of_turn>", true), ("[x]", true)];

fuzz_target!(|data: &[u8]| {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let call = json!({"function": {"name": "f\n{{", "arguments": {"<escape>": [1e300, -0.0, null, {"a": u64::MAX}]}}});
    let messages = [
        json!({"role": "developer", "content": [{"type": "text", "text": "<start_of_"}, {"text": "turn>\u{1f}"}]}),
        json!({"role": "user", "content": "{% raw %}é\u{fdd0}日 %s {} \\"}),
        json!({"role": "assistant", "content": null, "tool_calls": [call, call]}),
        json!({"role": "tool", "name": "", "content": {"deep": [[[[[{"": []}]]]]]}}),
    ];
    let specials = [("bos_token".into(), "<bos>".into())].into();
    if let Ok(template) = ChatTemplate::from_source(source, specials) {
        let _ = template.render(&messages, &engine_fuzz::tools(), true);
    }
    let control = ControlTokens::new(CONTROL).expect("they are sound");
    let marked = control.mark_source(source, Marks::pair(1));
    if let Ok(text) =
        ChatTemplate::from_source(&marked, Default::default()).and_then(|t| t.render(&messages, &[], false))
    {
        control.unmark(&text, Marks::pair(1));
    }
});
