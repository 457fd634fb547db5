//! LoRA against peft and TRL (tests/fixtures/lora, made by make_lora_golden.py): every loss of 20 steps from an adapter that peft has
//! begun, and the logits of one that it has trained.

use std::path::{Path, PathBuf};

use engine::autograd::Tape;
use engine::batch::Example;
use engine::batch::tree::TokenTree;
use engine::device::{DType, Tensor};
use engine::io::adapter_files::AdapterFolder;
use engine::model::gemma3::Gemma3;
use engine::model::gemma3::adapter::{Adapter, merge};
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::{parameter_count, parameter_specs};
use engine::ops::adamw::AdamW;
use engine::train::step::Step;
use safetensors::SafeTensors;

fn fixtures() -> PathBuf {
    let root = std::env::var("ENGINE_TEST_ROOT").unwrap_or(env!("CARGO_MANIFEST_DIR").to_string());
    PathBuf::from(root).join("tests/fixtures")
}

fn bytes(path: &Path, name: &str) -> Vec<u8> {
    let file = std::fs::read(path).unwrap();
    SafeTensors::deserialize(&file).unwrap().tensor(name).unwrap().data().to_vec()
}

fn floats(name: &str) -> Vec<f32> {
    let bytes = bytes(&fixtures().join("lora/golden.safetensors"), name);
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn rows() -> Vec<Example> {
    let ints = |name: &str| -> Vec<u32> {
        let bytes = bytes(&fixtures().join("gemma3_tiny/golden.safetensors"), name);
        bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
    };
    let (ids, lengths) = (ints("rows"), ints("lengths"));
    let rows = ids.chunks_exact(ids.len() / lengths.len()).zip(&lengths);
    rows.map(|(row, &n)| crate::tiny::example(&row[..n as usize], 1)).collect()
}

fn tree(rows: &[Example]) -> TokenTree {
    TokenTree::from_examples(&rows.iter().collect::<Vec<_>>())
}

struct Files {
    config: Gemma3Config,
    weights: Vec<f32>,
    adapter: AdapterFolder,
    values: Vec<f32>,
}

/// The tiny model and one of peft's adapters.
fn files(adapter: &str) -> Files {
    let base = fixtures().join("gemma3_tiny");
    let config = Gemma3Config::load(&base).unwrap();
    let specs = parameter_specs(&config);
    let mut weights = vec![0.0; parameter_count(&specs)];
    engine::io::safetensors::read_model(&base, &specs, &mut weights).unwrap();
    let adapter = AdapterFolder::open(&fixtures().join("lora").join(adapter)).unwrap();
    let mut values = vec![0.0; parameter_count(&adapter.config.lora.specs(&config).unwrap())];
    adapter.read_into(&config, &mut values).unwrap();
    Files { config, weights, adapter, values }
}

fn flat(values: &[f32]) -> Tensor {
    Tensor::from_slice(&engine::host::device(), &[values.len()], values)
}

/// The model with the adapter beside it.
fn adapted(Files { config, weights, adapter, values }: &Files) -> Gemma3 {
    let adapter = Adapter::new(config, adapter.config.lora.clone(), flat(values)).unwrap();
    Gemma3::new(config.clone(), flat(weights)).unwrap().adapted(adapter, DType::F32).unwrap()
}

fn logits(model: &Gemma3) -> Vec<f32> {
    let row = |example: &Example| {
        let mut tape = Tape::inference(model.device());
        let hidden =
            model.forward(&mut tape, &model.batch(&tree(std::slice::from_ref(example))).unwrap(), None).unwrap();
        let all: Vec<u32> = (0..example.ids.len() as u32).collect();
        model.logits(&mut tape, &hidden, &all).unwrap().download::<f32>().unwrap()
    };
    rows().iter().flat_map(row).collect()
}

/// As far as f32 goes: the largest difference of the logits, in parts of the largest.
fn assert_reference(model: &Gemma3, what: &str) {
    let (got, expected) = (logits(model), floats("logits"));
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(&expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst < 1e-5 * largest, "{what}: {worst:e} of {largest}");
}

#[test]
fn an_adapter_of_peft_gives_its_logits_beside_the_model_and_merged() {
    let files = files("trained");
    assert_reference(&adapted(&files), "beside the model");
    let Files { config, mut weights, adapter, values } = files;
    merge(&config, &adapter.config.lora, &values, &mut weights).unwrap();
    assert_reference(&Gemma3::new(config, flat(&weights)).unwrap(), "merged");
}

#[test]
fn twenty_steps_have_the_losses_of_trl_and_end_at_its_logits() {
    let mut model = adapted(&files("begun"));
    let rows = rows();
    let mut step = Step::new(&model, 1.0, false).unwrap();
    let (losses, norms) = (floats("losses"), floats("grad_norms"));
    for (i, (loss, norm)) in losses.iter().zip(&norms).enumerate() {
        let batch = if i % 2 == 0 { &rows[..2] } else { &rows[2..] };
        let number = i as u64 + 1;
        let hyper = AdamW { learning_rate: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.1, step: number };
        let result = step.run(&mut model, vec![tree(batch)], &hyper).unwrap();
        // What the reference rounds in f32 grows from step to step.
        assert!(
            (result.mean_loss() / f64::from(*loss) - 1.0).abs() < 1e-5,
            "loss of step {number}: {result:?}, {loss}"
        );
        assert!((result.grad_norm / f64::from(*norm) - 1.0).abs() < 1e-4, "norm of step {number}: {result:?}, {norm}");
    }
    let (got, expected) = (logits(&model), floats("logits"));
    let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(&expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst < 1e-4 * largest, "{worst:e} of {largest}");
}
