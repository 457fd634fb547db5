//! What the targets share: files for what is read from disk, and the tools that their rows may call.

use std::path::PathBuf;
use std::process;

use serde_json::{Value, json};

/// A file of the process's own with these contents, in the folder for temporary files.
pub fn file(name: &str, contents: &[u8]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("engine-fuzz-{}", process::id()));
    std::fs::create_dir_all(&folder).expect("the folder for temporary files can be written");
    let path = folder.join(name);
    std::fs::write(&path, contents).expect("the folder for temporary files can be written");
    path
}

/// A tool in OpenAI's form.
pub fn tools() -> Vec<Value> {
    let parameters = json!({"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]});
    vec![json!({"type": "function", "function": {"name": "search", "description": "d", "parameters": parameters}})]
}
