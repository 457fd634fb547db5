//! A Gemma 3 in a GGUF: its weights by the parameter table, its metadata against Hugging Face's config.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Value, json};

use super::gguf::{GgufFile, MetaValue};
use crate::error::{Context, Result};
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::table::{GGUF_EMBEDDING, Parameter};
use crate::{bail, err};

/// What type a number of the metadata has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    U32,
    F32,
}

/// Metadata keys (after `gemma3.`), the config fields that they agree with, and how they are stored.
pub(super) const KEYS: [(&str, &str, Stored); 10] = [
    ("context_length", POSITIONS, Stored::U32),
    ("embedding_length", "hidden_size", Stored::U32),
    ("block_count", "num_hidden_layers", Stored::U32),
    ("feed_forward_length", "intermediate_size", Stored::U32),
    ("attention.head_count", "num_attention_heads", Stored::U32),
    ("attention.head_count_kv", "num_key_value_heads", Stored::U32),
    ("attention.key_length", "head_dim", Stored::U32),
    ("attention.sliding_window", "sliding_window", Stored::U32),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps", Stored::F32),
    ("rope.freq_base", "rope_theta", Stored::F32),
];
/// For how many positions the model was made: nothing is computed from it.
const POSITIONS: &str = "max_position_embeddings";

/// What a config says of each of [`KEYS`].
pub(super) fn hyperparameters(config: &Gemma3Config) -> [f64; KEYS.len()] {
    [
        config.max_position_embeddings as f64,
        config.hidden_size as f64,
        config.num_hidden_layers as f64,
        config.intermediate_size as f64,
        config.num_attention_heads as f64,
        config.num_key_value_heads as f64,
        config.head_dim as f64,
        config.sliding_window as f64,
        config.rms_norm_eps,
        config.rope_theta,
    ]
}

impl GgufFile {
    /// The config of the model: `folder/config.json` checked against the metadata, or made from it where there is none.
    ///
    /// # Errors
    /// The file is not a Gemma 3, metadata is missing, or the two contradict each other (the error names the field).
    pub fn config(&self, folder: &Path) -> Result<Gemma3Config> {
        match self.metadata("general.architecture") {
            Some(MetaValue::Text(name)) if name == "gemma3" => {}
            Some(MetaValue::Text(name)) => bail!("`{}` holds a `{name}` model, not `gemma3`", self.path().display()),
            _ => bail!("`{}` does not say its `general.architecture`", self.path().display()),
        }
        let failed = || format!("cannot use the GGUF `{}`", self.path().display());
        if folder.join("config.json").exists() {
            let config = Gemma3Config::load(folder)?;
            self.check_against(&config).context(failed)?;
            return Ok(config);
        }
        self.config_from_metadata().and_then(Gemma3Config::from_value).context(failed)
    }

    /// Reads all weights into `out`, laid out by the table `parameters`.
    ///
    /// # Errors
    /// A tensor is missing, unknown, of another shape, or holds NaN or infinity.
    ///
    /// # Panics
    /// When `out` has another length than `parameters` asks for.
    pub fn read_model(&self, parameters: &[Parameter], out: &mut [f32]) -> Result<()> {
        let count: usize = parameters.iter().map(|parameter| parameter.spec.len()).sum();
        assert_eq!(out.len(), count, "the buffer must hold exactly the parameters");
        self.check_model(parameters)?;
        let mut rest = out;
        for parameter in parameters {
            let (tensor, tail) = rest.split_at_mut(parameter.spec.len());
            rest = tail;
            let failed = || format!("cannot load the weights of `{}`", self.path().display());
            self.read_parameter(parameter, 0, tensor).context(failed)?;
        }
        Ok(())
    }

    /// Whether [`GgufFile::read_model`] will find what `parameters` asks for, by the header alone.
    ///
    /// # Errors
    /// A tensor is missing, unknown or of another shape.
    pub fn check_model(&self, parameters: &[Parameter]) -> Result<()> {
        let failed = || format!("cannot load the weights of `{}`", self.path().display());
        let known: HashSet<&str> = parameters.iter().map(|parameter| parameter.gguf_name.as_str()).collect();
        if let Some(extra) = self.tensor_names().find(|name| !known.contains(name)) {
            return Err(err!("tensor `{extra}` does not belong to the model that the config describes"))
                .context(failed);
        }
        for parameter in parameters {
            let (name, expected) = (&parameter.gguf_name, parameter.spec.shape.as_slice());
            match self.shape(name) {
                None => return Err(err!("tensor `{name}` is missing")).context(failed),
                Some(shape) if shape != expected => {
                    return Err(err!("tensor `{name}` has shape {shape:?}; the config asks for {expected:?}"))
                        .context(failed);
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The elements of a parameter of the model from `first` on; [`check_model`](Self::check_model) has found it.
    pub(super) fn read_parameter(&self, parameter: &Parameter, first: usize, out: &mut [f32]) -> Result<()> {
        self.read_part(&parameter.gguf_name, first, out)?;
        let offset = parameter.kind.gguf_offset();
        if offset != 0.0 {
            out.iter_mut().for_each(|weight| *weight -= offset);
        }
        Ok(())
    }

    /// The number behind `gemma3.key`, integers exactly.
    fn number(&self, key: &str) -> Option<Value> {
        match self.metadata(&format!("gemma3.{key}"))? {
            MetaValue::Unsigned(n) => Some(json!(n)),
            MetaValue::Negative(n) => Some(json!(n)),
            // Through the shortest decimal of the f32 it was stored as: 1e-6, not 9.99999997e-7.
            MetaValue::Float(x) => (*x as f32).to_string().parse::<f64>().ok().map(|x| json!(x)),
            _ => None,
        }
    }

    fn check_against(&self, config: &Gemma3Config) -> Result<()> {
        let expected = KEYS.iter().zip(hyperparameters(config)).filter(|((_, field, _), _)| *field != POSITIONS);
        for ((key, field, _), expected) in expected {
            let found = self.number(key).and_then(|value| value.as_f64());
            if let Some(found) = found.filter(|found| (found - expected).abs() > 1e-6 * expected.abs()) {
                return Err(err!("its `gemma3.{key}` is {found}, but `{field}` in `config.json` is {expected}")
                    .hint("take the config of the same model, or leave it out: the GGUF then makes one"));
            }
        }
        Ok(())
    }

    /// A `config.json` of what the metadata says.
    fn config_from_metadata(&self) -> Result<Value> {
        let Some(&[vocab_size, _]) = self.shape(GGUF_EMBEDDING) else { bail!("tensor `{GGUF_EMBEDDING}` is missing") };
        let mut config = json!({
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "vocab_size": vocab_size,
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": false,
            "tie_word_embeddings": true,
        });
        for (key, field, _) in KEYS {
            match self.number(key) {
                Some(value) => config[field] = value,
                None if field == "rope_theta" => {}
                None => bail!("metadata `gemma3.{key}` is missing"),
            }
        }
        config["query_pre_attn_scalar"] = config["head_dim"].clone();
        config["rope_local_base_freq"] = self.number("rope.freq_base_swa").unwrap_or(json!(1e4));
        let optional = [
            ("attention.sliding_window_pattern", "sliding_window_pattern"),
            ("final_logit_softcapping", "final_logit_softcapping"),
            ("attn_logit_softcapping", "attn_logit_softcapping"),
        ];
        for (key, field) in optional {
            if let Some(value) = self.number(key) {
                config[field] = value;
            }
        }
        if let Some(factor) = self.number("rope.scaling.factor").filter(|factor| factor.as_f64() != Some(1.0)) {
            config["rope_scaling"] = json!({"factor": factor});
        }
        let token = |key: &str| match self.metadata(&format!("tokenizer.ggml.{key}_token_id")) {
            Some(MetaValue::Unsigned(id)) => Some(*id),
            _ => None,
        };
        for (key, field) in [("bos", "bos_token_id"), ("padding", "pad_token_id")] {
            if let Some(id) = token(key) {
                config[field] = json!(id);
            }
        }
        match &["eos", "eot", "eom"].into_iter().filter_map(token).collect::<Vec<_>>()[..] {
            [] => {}
            [only] => config["eos_token_id"] = json!(only),
            several => config["eos_token_id"] = json!(several),
        }
        Ok(config)
    }
}
