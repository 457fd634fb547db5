//! The models that benches run: a small random one, and the checkpoint that the environment names; and where they run.

use std::path::Path;

use engine::device::{DType, Device, Purpose, Tensor};
use engine::error::Result;
use engine::model::gemma3::Gemma3;
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::{parameter_count, parameter_specs};
use serde_json::json;

/// What to compute in: both types on the CPU, bf16 on the GPU (`ENGINE_BENCH_DEVICE=cuda`).
pub fn dtypes() -> &'static [(&'static str, DType)] {
    const BOTH: [(&str, DType); 2] = [("f32", DType::F32), ("bf16", DType::Bf16)];
    if is_cuda() { &BOTH[1..] } else { &BOTH }
}

pub fn is_cuda() -> bool {
    std::env::var("ENGINE_BENCH_DEVICE").as_deref() == Ok("cuda")
}

fn device() -> Result<Device> {
    if is_cuda() { engine::cuda::device() } else { Ok(engine::host::device()) }
}

/// Calls `bench` with each model and type, and the name of the two.
pub fn for_each(mut bench: impl FnMut(&str, Gemma3)) {
    // As in the command, this thread is among those that share the work. An error says that it is: another bench was here.
    let _ = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
    for &(name, dtype) in dtypes() {
        bench(&format!("small/{name}"), small(dtype).unwrap());
    }
    let Some(folder) = std::env::var_os("ENGINE_BENCH_MODEL") else { return };
    for &(name, dtype) in dtypes() {
        let model = load(Path::new(&folder), dtype).unwrap_or_else(|error| panic!("{}", error.report()));
        bench(&format!("checkpoint/{name}"), model);
    }
}

fn model(config: Gemma3Config, weights: &[f32], dtype: DType) -> Result<Gemma3> {
    let mut values = Tensor::empty(&device()?.of(Purpose::Weights), &[weights.len()], DType::F32)?;
    values.upload(weights)?;
    Gemma3::new(config, values)?.computed_in(dtype)
}

/// FunctionGemma's shape at a fifth of its width, a third of its layers and a small vocabulary: 3 million parameters.
fn small(dtype: DType) -> Result<Gemma3> {
    let config = Gemma3Config::from_value(json!({
        "model_type": "gemma3_text",
        "vocab_size": 8192,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "sliding_window": 64,
    }))?;
    let n = parameter_count(&parameter_specs(&config));
    // A Weyl sequence in -0.05..0.05.
    let weight = |i: u32| i.wrapping_mul(2_654_435_769) as i32 as f32 / 2f32.powi(31) * 0.05;
    let weights: Vec<f32> = (0..n as u32).map(weight).collect();
    model(config, &weights, dtype)
}

fn load(folder: &Path, dtype: DType) -> Result<Gemma3> {
    let config = Gemma3Config::load(folder)?;
    let specs = parameter_specs(&config);
    let mut weights = vec![0.0f32; parameter_count(&specs)];
    engine::io::safetensors::read_model(folder, &specs, &mut weights)?;
    model(config, &weights, dtype)
}
