//! `generation_config.json`: how a checkpoint wants its tokens drawn and where a sequence ends.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::fields::{Fields, MAX_CONFIG, TokenIds, read_small};
use super::gemma3::config::Gemma3Config;
use crate::bail;
use crate::error::{Context, Result};

/// Sampling settings and stop tokens of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// Draw at random; otherwise always the likeliest token.
    pub do_sample: bool,
    /// Draw among this many likeliest tokens; 0 means all.
    pub top_k: usize,
    /// Draw among the likeliest tokens that together reach this probability; 1 means all.
    pub top_p: f64,
    /// Logits are divided by it; positive.
    pub temperature: f64,
    /// Generation stops after any of these.
    pub eos_token_id: Vec<u32>,
    /// The file as read, so that saving keeps what is not known here.
    raw: Map<String, Value>,
}

impl GenerationConfig {
    /// Reads `folder/generation_config.json`; without that file, transformers' defaults (greedy, the config's stop tokens).
    ///
    /// # Errors
    /// The file cannot be read, is not JSON, or holds a value outside its range.
    pub fn load(folder: &Path, config: &Gemma3Config) -> Result<Self> {
        let path = folder.join("generation_config.json");
        if !path.exists() {
            return Self::from_value(json!({}), config);
        }
        let text = read_small(&path, MAX_CONFIG)?;
        let value = serde_json::from_str(&text).context(|| format!("`{}` is not JSON", path.display()))?;
        Self::from_value(value, config).context(|| format!("cannot use `{}`", path.display()))
    }

    /// Checks a `generation_config.json` given as JSON.
    ///
    /// # Errors
    /// As [`GenerationConfig::load`], less the file.
    pub fn from_value(value: Value, config: &Gemma3Config) -> Result<Self> {
        let Value::Object(raw) = value else { bail!("the generation config is not a JSON object") };
        let fields = Fields(&raw);
        let stop: Option<TokenIds> = fields.optional("eos_token_id")?;
        let this = Self {
            do_sample: fields.optional("do_sample")?.unwrap_or(false),
            top_k: fields.optional("top_k")?.unwrap_or(50),
            top_p: fields.optional("top_p")?.unwrap_or(1.0),
            temperature: fields.optional("temperature")?.unwrap_or(1.0),
            eos_token_id: stop.map_or_else(|| config.eos_token_id.clone(), TokenIds::into_vec),
            raw,
        };
        if !(this.top_p > 0.0 && this.top_p <= 1.0) {
            bail!("`top_p` is {}; expected above 0 and at most 1", this.top_p);
        }
        if !(this.temperature > 0.0 && this.temperature.is_finite()) {
            bail!("`temperature` is {}; expected a positive number", this.temperature);
        }
        Ok(this)
    }

    /// With one more token that ends a sequence, before the others.
    pub fn with_stop_token(mut self, id: u32) -> Self {
        self.eos_token_id.retain(|known| *known != id);
        self.eos_token_id.insert(0, id);
        self.raw.insert("eos_token_id".into(), self.eos_token_id.clone().into());
        self
    }

    /// The JSON to save: as read, or the stop tokens alone where there was no file.
    pub fn to_value(&self) -> Value {
        let mut raw = self.raw.clone();
        raw.entry("eos_token_id").or_insert_with(|| self.eos_token_id.clone().into());
        Value::Object(raw)
    }
}
