//! Files of rows: JSON lines and JSON lists, in every form.
#![no_main]

use engine::data::check::check_rows;
use engine::data::{RowContent, RowOptions, load_rows};
use engine::eval::verdict::Expected;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = engine_fuzz::file("rows.jsonl", data);
    for options in [RowOptions::default(), RowOptions { tools: Some(engine_fuzz::tools()), system: Some("s".into()), ..Default::default() }] {
        let Ok(rows) = load_rows(path.to_str().expect("the name is ASCII"), &options) else { continue };
        let _ = check_rows(&rows);
        for row in &rows {
            row.tool_names();
            if let RowContent::Chat { messages, .. } = &row.content {
                let _ = Expected::from_messages(&messages[messages.len() - 1..]);
            }
        }
    }
});
