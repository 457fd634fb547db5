//! A tiny Gemma 3 with random weights, and the plain way to run it: one row at a time, no tree, no cache.

use engine::autograd::Tape;
use engine::batch::Example;
use engine::batch::tree::TokenTree;
use engine::device::Tensor;
use engine::host::simd::Real;
use engine::model::gemma3::Gemma3;
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::{parameter_count, parameter_specs};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

/// Widths of a tiny model.
struct Shape {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    sliding_window: usize,
}

impl Shape {
    /// Two layers, one of each kind, with 4 query heads.
    fn config(self) -> Gemma3Config {
        let config = json!({
            "model_type": "gemma3_text",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "query_pre_attn_scalar": self.head_dim,
            "sliding_window": self.sliding_window,
            "layer_types": ["sliding_attention", "full_attention"],
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "max_position_embeddings": 64,
            "bos_token_id": 2,
            "eos_token_id": 1,
        });
        Gemma3Config::from_value(config).unwrap()
    }
}

/// 4 query heads on 2; the sliding window is shorter than the tests' rows.
pub fn config() -> Gemma3Config {
    let (vocab_size, hidden_size, intermediate_size) = (31, 8, 12);
    Shape { vocab_size, hidden_size, intermediate_size, num_key_value_heads: 2, head_dim: 4, sliding_window: 4 }
        .config()
}

/// Four heads on one, as in the real model; every width a whole number of 16 bytes, so that kernels take the fast path.
pub fn wide() -> Gemma3Config {
    let (vocab_size, hidden_size, intermediate_size) = (67, 32, 48);
    Shape { vocab_size, hidden_size, intermediate_size, num_key_value_heads: 1, head_dim: 16, sliding_window: 5 }
        .config()
}

/// Every row a whole number of blocks of 32, as files of blocks want it.
pub fn blocks() -> Gemma3Config {
    let (vocab_size, hidden_size, intermediate_size) = (31, 32, 32);
    Shape { vocab_size, hidden_size, intermediate_size, num_key_value_heads: 2, head_dim: 8, sliding_window: 4 }
        .config()
}

/// Weights uniform in -0.5..0.5: far from a trained model's, so that nothing is close to linear.
pub fn weights(config: &Gemma3Config, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = parameter_count(&parameter_specs(config));
    (0..n).map(|_| (rng.random::<f64>() - 0.5) as f32 as f64).collect()
}

pub fn model<T: Real>(weights: &[f64]) -> Gemma3 {
    let weights: Vec<T> = weights.iter().map(|&w| T::from_f64(w)).collect();
    Gemma3::new(config(), Tensor::from_slice(&engine::host::device(), &[weights.len()], &weights)).unwrap()
}

/// An example that scores every token but the first `prompt`.
pub fn example(ids: &[u32], prompt: usize) -> Example {
    let scored = (0..ids.len()).map(|t| t >= prompt).collect();
    Example { ids: ids.to_vec(), scored, origin: String::new() }
}

/// Rows of which three begin alike.
pub fn examples() -> Vec<Example> {
    vec![
        example(&[2, 7, 9, 4, 30, 11, 7, 7, 3], 0),
        example(&[2, 7, 9, 4, 30, 12, 8], 3),
        example(&[2, 7, 9, 5, 5, 5, 5, 5, 5, 6], 4),
        example(&[13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23], 1),
    ]
}

/// The tree of all of them.
pub fn tree(examples: &[Example]) -> TokenTree {
    TokenTree::from_examples(&examples.iter().collect::<Vec<_>>())
}

/// Logits after the last token of one row.
pub fn last_logits(model: &Gemma3, ids: &[u32]) -> Vec<f64> {
    let tree = TokenTree::from_examples(&[&example(ids, 0)]);
    let mut tape = Tape::inference(model.device());
    let hidden = model.forward(&mut tape, &model.batch(&tree).unwrap(), None).unwrap();
    model.logits(&mut tape, &hidden, &[ids.len() as u32 - 1]).unwrap().to_f64()
}

/// The likeliest token, the first of equals.
pub fn argmax(logits: &[f64]) -> u32 {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as u32
}
