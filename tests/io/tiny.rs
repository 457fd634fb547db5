//! A tiny Gemma 3 in every form the tests need: config, weights, folder, GGUF.

use std::fs;
use std::path::{Path, PathBuf};

use engine::autograd::ParamSpec;
use engine::error::Error;
use engine::io::folder::OutputFolder;
use engine::io::model_files::{SavedModel, TokenizerFiles};
use engine::io::safetensors::{SaveDtype, write_model};
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::{parameter_count, parameter_specs};
use engine::model::generation_config::GenerationConfig;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// Two layers, 4 heads on 2, sizes that are not multiples of each other.
pub fn config_value() -> Value {
    json!({
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": 40, "hidden_size": 24, "intermediate_size": 56, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10,
        "sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 10, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "bos_token_id": 2, "eos_token_id": [1, 9], "pad_token_id": 0,
        "dtype": "bfloat16", "something_new": {"kept": [1, 2]},
    })
}

pub fn config() -> Gemma3Config {
    Gemma3Config::from_value(config_value()).unwrap()
}

/// The config with one field replaced.
pub fn config_with(key: &str, value: Value) -> Value {
    let mut config = config_value();
    config[key] = value;
    config
}

pub fn specs() -> Vec<ParamSpec> {
    parameter_specs(&config())
}

/// Weights that bf16 holds exactly.
pub fn weights(seed: u64) -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..parameter_count(&specs())).map(|_| rng.random_range(-127i32..=127) as f32 / 64.0).collect()
}

pub fn write_weights(path: &Path, flat: &[f32], dtype: SaveDtype) {
    write_model(&mut fs::File::create(path).unwrap(), &specs(), flat, dtype).unwrap();
}

/// A folder with what a tokenizer needs to be copied.
pub fn tokenizer_folder(parent: &Path) -> PathBuf {
    let folder = parent.join("source");
    fs::create_dir_all(&folder).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        fs::write(folder.join(name), format!("{{\"file\": \"{name}\"}}")).unwrap();
    }
    folder
}

/// Saves `flat` to `output` with the tokenizer of `source`.
pub fn save(output: &mut OutputFolder, source: &Path, flat: &[f32]) -> Result<(), Error> {
    save_with(output, source, flat, &[])
}

/// [`save`] with these files of a run.
pub fn save_with(
    output: &mut OutputFolder,
    source: &Path,
    flat: &[f32],
    files: &[(&str, PathBuf)],
) -> Result<(), Error> {
    save_files(output, &TokenizerFiles::read(source)?, flat, files)
}

/// [`save_with`] a tokenizer that was read before.
pub fn save_files(
    output: &mut OutputFolder,
    tokenizer: &TokenizerFiles,
    flat: &[f32],
    files: &[(&str, PathBuf)],
) -> Result<(), Error> {
    let config = config();
    let generation_config = GenerationConfig::from_value(json!({"top_k": 64}), &config)?;
    let chat_template = Some("{{ messages }}");
    let (config, generation_config) = (&config, &generation_config);
    let model =
        SavedModel { tokenizer, config, generation_config, flat, dtype: SaveDtype::Bf16, adapter: None, chat_template };
    match output.save_model(&model, files)?.warning {
        Some(warning) => Err(warning),
        None => Ok(()),
    }
}

/// The tiny model as a safetensors file of one dtype, as bytes with the JSON header changed by `edit`.
pub fn edited_safetensors(flat: &[f32], edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_model(&mut bytes, &specs(), flat, SaveDtype::F32).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..end]).unwrap();
    edit(&mut header);
    let text = header.to_string();
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &bytes[end..]].concat()
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Asserts that `result` failed with a report that holds each of `parts`.
pub fn assert_fails<T>(result: Result<T, Error>, parts: &[&str]) {
    let report = result.err().expect("must fail").report();
    for part in parts {
        assert!(report.contains(part), "`{part}` is not in:\n{report}");
    }
}

/// Builds a GGUF byte by byte.
#[derive(Clone)]
pub struct GgufBuilder {
    pub magic: [u8; 4],
    pub version: u32,
    pub tensor_count: Option<u64>,
    pub pair_count: Option<u64>,
    pub pairs: Vec<Vec<u8>>,
    pub tensors: Vec<GgufTensor>,
}

#[derive(Clone)]
pub struct GgufTensor {
    pub name: String,
    /// Columns first.
    pub sizes: Vec<u64>,
    pub kind: u32,
    pub offset: u64,
    pub data: Vec<u8>,
}

pub fn gguf_string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A metadata pair of any type.
pub fn gguf_pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&gguf_string(key)[..], &kind.to_le_bytes(), value].concat()
}

impl GgufBuilder {
    /// The tiny model with weights `flat`, all F32, as llama.cpp's converter writes it.
    pub fn tiny(flat: &[f32]) -> Self {
        let mut builder = Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            pair_count: None,
            pairs: vec![gguf_pair("general.architecture", 8, &gguf_string("gemma3"))],
            tensors: Vec::new(),
        };
        let integers = [
            ("context_length", 128u32),
            ("embedding_length", 24),
            ("block_count", 2),
            ("feed_forward_length", 56),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 10),
            ("attention.sliding_window", 3),
        ];
        for (key, value) in integers {
            builder.pairs.push(gguf_pair(&format!("gemma3.{key}"), 4, &value.to_le_bytes()));
        }
        for (key, value) in [("rope.freq_base", 1e6f32), ("attention.layer_norm_rms_epsilon", 1e-6)] {
            builder.pairs.push(gguf_pair(&format!("gemma3.{key}"), 6, &value.to_le_bytes()));
        }
        let words = [gguf_string("a"), gguf_string("")].concat();
        let array = [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &words].concat();
        builder.pairs.push(gguf_pair("tokenizer.ggml.tokens", 9, &array));
        builder.pairs.push(gguf_pair("tokenizer.ggml.eos_token_id", 4, &1u32.to_le_bytes()));
        builder.push_weights(flat);
        builder
    }

    fn push_weights(&mut self, flat: &[f32]) {
        let names = gguf_names();
        let mut rest = flat;
        for (spec, name) in specs().iter().zip(names) {
            let (values, tail) = rest.split_at(spec.len());
            rest = tail;
            let one = if spec.shape.len() == 1 { 1.0 } else { 0.0 };
            let data = values.iter().flat_map(|x| (x + one).to_le_bytes()).collect();
            let sizes = spec.shape.iter().rev().map(|&n| n as u64).collect();
            let offset =
                self.tensors.last().map_or(0, |last| (last.offset + last.data.len() as u64).next_multiple_of(32));
            self.tensors.push(GgufTensor { name, sizes, kind: 0, offset, data });
        }
    }

    pub fn tensor(&mut self, name: &str) -> &mut GgufTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// Everything before the data.
    pub fn header(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        self.pairs.iter().for_each(|pair| bytes.extend(pair));
        for tensor in &self.tensors {
            bytes.extend(gguf_string(&tensor.name));
            bytes.extend((tensor.sizes.len() as u32).to_le_bytes());
            tensor.sizes.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        let start = bytes.len().next_multiple_of(32);
        for tensor in &self.tensors {
            bytes.resize(bytes.len().max(start + tensor.offset as usize), 0);
            bytes.extend(&tensor.data);
        }
        bytes
    }

    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("model.gguf");
        fs::write(&path, self.bytes()).unwrap();
        path
    }
}

/// llama.cpp's names of the tiny model's tensors, in the order of the parameter table.
fn gguf_names() -> Vec<String> {
    let parts = [
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_q_norm",
        "attn_k_norm",
        "attn_output",
        "post_attention_norm",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
        "post_ffw_norm",
    ];
    let layers = (0..2).flat_map(|layer| parts.iter().map(move |part| format!("blk.{layer}.{part}.weight")));
    ["token_embd.weight".to_string()].into_iter().chain(layers).chain(["output_norm.weight".to_string()]).collect()
}
