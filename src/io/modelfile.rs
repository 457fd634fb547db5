//! A `Modelfile`: what `ollama create` needs beside a GGUF.
//!
//! Format: <https://docs.ollama.com/modelfile>. FunctionGemma's prompts and calls are made and read by code of Ollama that
//! `RENDERER` and `PARSER` name; without them Ollama says that the model does not support tools.

use std::io::ErrorKind;
use std::path::Path;

use crate::err;
use crate::error::{Context, Result};
use crate::model::generation_config::GenerationConfig;

/// The first line of ours.
const FIRST_LINE: &str = "# Made by `engine export`. Use it with: ollama create NAME -f Modelfile\n";

/// The text for the GGUF of this name in the same folder.
pub(super) fn modelfile(gguf: &str, config: &GenerationConfig) -> String {
    let sampling = match config.do_sample {
        true => [
            ("temperature", config.temperature.to_string()),
            ("top_k", config.top_k.to_string()),
            ("top_p", config.top_p.to_string()),
        ]
        .map(|(name, value)| format!("PARAMETER {name} {value}\n"))
        .concat(),
        false => "PARAMETER temperature 0\n".into(),
    };
    format!(
        "{FIRST_LINE}FROM ./{gguf}\nTEMPLATE {{{{ .Prompt }}}}\nRENDERER functiongemma\nPARSER functiongemma\n{sampling}"
    )
}

/// Whether a `Modelfile` may be written at `path`: there is none, or one of ours.
pub(super) fn check_place(path: &Path) -> Result<()> {
    match std::fs::read(path) {
        Ok(text) if text.starts_with(FIRST_LINE.as_bytes()) => Ok(()),
        Ok(_) => Err(err!("`{}` exists and was not made by `engine export`", path.display())
            .hint("choose another folder, or `--overwrite` to replace it")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context(|| format!("cannot read `{}`", path.display())),
    }
}
