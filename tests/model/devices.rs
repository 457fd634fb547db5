//! Whole steps and generation on every device in every type, against the CPU in f32 and f64. `ENGINE_TEST_DEVICE=cuda` runs
//! them on a GPU.

use engine::autograd::{BlockFormat, ParamSpec, Rounding, Tape};
use engine::batch::Example;
use engine::batch::tree::TokenTree;
use engine::device::{DType, Device, Tensor};
use engine::generate::{GenerateOptions, Sampling, generate};
use engine::model::gemma3::Gemma3;
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::parameter_specs;
use engine::ops::adamw::AdamW;
use engine::ops::cross_entropy::linear_cross_entropy;
use engine::ops::results::LossSums;
use engine::train::step::{Bucket, Regularization, Step, StepResult};
use half::bf16;

use crate::places::{Place, places};
use crate::tiny::{blocks, config, example, tree, weights, wide};

fn configs() -> [Gemma3Config; 2] {
    [config(), wide()]
}

/// A model whose weights bf16 holds exactly, on the CPU.
fn on_cpu(config: &Gemma3Config, seed: u64, dtype: DType) -> Gemma3 {
    on_device(&engine::host::device(), config, seed, dtype)
}

/// The same model on a device.
fn on_device(device: &Device, config: &Gemma3Config, seed: u64, dtype: DType) -> Gemma3 {
    let weights = rounded_weights(config, seed);
    let flat = match dtype {
        DType::F64 => Tensor::from_slice(device, &[weights.len()], &weights),
        _ => Tensor::from_slice(device, &[weights.len()], &weights.iter().map(|&w| w as f32).collect::<Vec<_>>()),
    };
    Gemma3::new(config.clone(), flat).unwrap().computed_in(dtype).unwrap()
}

/// Places that compute in `dtype`.
fn places_of(dtype: DType) -> impl Iterator<Item = Place> {
    places().into_iter().filter(move |place| place.dtype == dtype)
}

/// Devices that capture graphs.
fn graph_places() -> impl Iterator<Item = Place> {
    places().into_iter().filter(|place| place.device().driver().captures_graphs())
}

fn rounded_weights(config: &Gemma3Config, seed: u64) -> Vec<f64> {
    weights(config, seed).iter().map(|&w| bf16::from_f64(w).to_f64()).collect()
}

/// Rows that share prefixes at several depths, one that is a prefix of another, one given twice, one on its own that is
/// longer than a window.
fn examples() -> Vec<Example> {
    vec![
        example(&[2, 7, 9, 4, 30, 11, 7, 7, 3], 0),
        example(&[2, 7, 9, 4, 30, 12, 8], 3),
        example(&[2, 7, 9, 5, 5, 5, 5, 5, 5, 6], 4),
        example(&[2, 7, 9, 4], 0),
        example(&[2, 7, 9, 4], 0),
        example(&[13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23], 1),
    ]
}

/// Loss sums and every gradient of the mean loss.
fn gradient(model: &Gemma3, rounding: Rounding) -> (LossSums, Vec<f64>) {
    let tree = tree(&examples());
    let mut gradients = model.params.gradients().unwrap();
    let mut tape = Tape::recording(model.device(), &mut gradients).rounded(rounding);
    let hidden = model.forward(&mut tape, &model.batch(&tree).unwrap(), None).unwrap();
    let head = model.embedding();
    let sums = linear_cross_entropy(&mut tape, &hidden, &head, &tree.targets, tree.num_scored()).unwrap();
    drop((hidden, head));
    tape.backward().unwrap();
    (sums, gradients.values.to_f64())
}

/// Root of the summed squares of a difference.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

#[test]
fn in_f32_loss_and_every_gradient_are_the_cpus() {
    for (config, place) in configs().iter().flat_map(|config| places_of(DType::F32).map(move |place| (config, place))) {
        let model = on_cpu(config, 1, DType::F32);
        let (sums, expected) = gradient(&model, Rounding::None);
        let (got_sums, got) = gradient(&on_device(&place.device(), config, 1, DType::F32), Rounding::None);
        assert!((got_sums.loss / sums.loss - 1.0).abs() < 1e-5 && (got_sums.entropy / sums.entropy - 1.0).abs() < 1e-5);
        assert_eq!((got_sums.correct, got_sums.scored), (sums.correct, sums.scored));
        for span in model.params.spans() {
            let (got, expected) = (&got[span.range()], &expected[span.range()]);
            let largest = expected.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            let error = got.iter().zip(expected).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(error <= 1e-5 * largest, "{place:?}, {}: {error:.2e} of {largest:.2e}", span.name);
        }
    }
}

/// Per parameter the squares of the relative errors of what was got and of plain bf16, summed over models.
fn bf16_errors(config: &Gemma3Config, place: Place, models: u64) -> Vec<[f64; 2]> {
    let spans = on_cpu(config, 1, DType::F32).params.spans().to_vec();
    let mut squares = vec![[0.0f64; 2]; spans.len()];
    for seed in 1..=models {
        let (exact_sums, exact) = gradient(&on_cpu(config, seed, DType::F64), Rounding::None);
        let (_, plain) = gradient(&on_cpu(config, seed, DType::F32), Rounding::Bf16);
        let (sums, got) = gradient(&on_device(&place.device(), config, seed, DType::Bf16), Rounding::None);
        assert!((sums.loss / exact_sums.loss - 1.0).abs() < 2e-3, "loss {} of {}", sums.loss, exact_sums.loss);
        for (span, squares) in spans.iter().zip(&mut squares) {
            let [got, plain, exact] = [&got, &plain, &exact].map(|g| &g[span.range()]);
            let size = distance(exact, &vec![0.0; exact.len()]);
            squares[0] += (distance(got, exact) / size).powi(2);
            squares[1] += (distance(plain, exact) / size).powi(2);
        }
    }
    squares
}

#[test]
fn in_bf16_every_gradient_is_at_most_twice_as_far_off_as_plain_bf16() {
    // One model's error is one draw of chance, on either side: roundings of 2 layers grow into 1 to 10 % of a gradient.
    // The rule is about its size, the root mean square over some models.
    const MODELS: u64 = 8;
    for config in configs() {
        let model = on_cpu(&config, 1, DType::F32);
        for place in places_of(DType::Bf16) {
            for (span, squares) in model.params.spans().iter().zip(bf16_errors(&config, place, MODELS)) {
                let [error, plain] = squares.map(|sum| (sum / MODELS as f64).sqrt());
                assert!(error <= 2.0 * plain, "{place:?}, {}: {error:.2e}, plain bf16 {plain:.2e}", span.name);
            }
        }
    }
}

/// A run of steps, each over the windows that `window` gives it.
fn train(
    model: &mut Gemma3,
    steps: u64,
    graphs: bool,
    window: impl Fn(u64) -> Vec<TokenTree>,
) -> (Vec<StepResult>, Vec<f64>) {
    let mut step = Step::new(model, 1.0, graphs).unwrap();
    let mut results = Vec::new();
    for i in 0..steps {
        let hyper = AdamW { learning_rate: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, step: i + 1 };
        results.push(step.run(model, window(i), &hyper).unwrap());
    }
    (results, model.params.masters().unwrap().to_f64())
}

#[test]
fn twenty_steps_follow_the_cpus_loss_curve() {
    let config = wide();
    let window = |_| vec![tree(&examples())];
    let (expected, _) = train(&mut on_cpu(&config, 3, DType::F32), 20, false, window);
    let first = expected[0].sums.loss / expected[0].sums.scored;
    for place in places() {
        // f32 differs by rounding alone, which Adam amplifies; bf16 also by what its weights and activations cannot hold.
        let allowed = if place.dtype == DType::F32 { 1e-4 } else { 0.05 };
        let (results, _) = train(&mut on_device(&place.device(), &config, 3, place.dtype), 20, true, window);
        for (i, (result, expected)) in results.iter().zip(&expected).enumerate() {
            let (loss, wanted) = (result.sums.loss / result.sums.scored, expected.sums.loss / expected.sums.scored);
            // What bf16 rounds off the weights moves the loss by an amount that does not shrink with it.
            let floor = if place.dtype == DType::F32 { 0.0 } else { 0.002 * first };
            let off = (loss - wanted).abs();
            assert!(off < allowed * wanted + floor, "{place:?}, step {i}: {loss}, the CPU's {wanted}");
            // The gradient of a batch that is learned is mostly rounding.
            if expected.grad_norm > 0.5 {
                let off = (result.grad_norm / expected.grad_norm - 1.0).abs();
                assert!(off < allowed, "{place:?}, norm of step {i}: off by {off}");
            }
        }
        let loss = |r: &StepResult| r.sums.loss / r.sums.scored;
        assert!(loss(&results[19]) < 0.5 * loss(&results[0]), "it learns");
    }
}

#[test]
fn a_captured_graph_gives_the_losses_and_weights_of_single_launches_to_the_bit() {
    // Two micro-batches of changing contents and one size; the third step has another number of them. The first step of
    // a size is run, the second captured, the others replay it.
    let examples = examples();
    let window = |step: u64| {
        let (first, second) = examples.split_at(1 + step as usize % 3);
        if step == 2 { vec![tree(&examples)] } else { vec![tree(first), tree(second)] }
    };
    for place in graph_places() {
        let run = |graphs| train(&mut on_device(&place.device(), &config(), 4, place.dtype), 6, graphs, window);
        let [graphs, single, again] = [true, false, true].map(run);
        assert!(graphs == single, "{place:?}");
        assert!(graphs == again, "{place:?}: run twice");
    }
}

/// A row of tokens that only end in something to predict.
fn long(len: u32) -> Example {
    let ids: Vec<u32> = (0..len).map(|t| 2 + t % 29).collect();
    example(&ids, len as usize - 5)
}

#[test]
fn a_graph_outlives_the_rotation_tables_that_a_longer_row_replaces() {
    // Tables begin at 256 positions. The third step grows them, the fourth replays the graph of the second.
    let window = |step| vec![tree(&if step == 2 { vec![long(300)] } else { examples() })];
    for place in graph_places().filter(|place| place.dtype == DType::F32) {
        let run = |graphs| train(&mut on_device(&place.device(), &config(), 7, DType::F32), 4, graphs, window);
        let [graphs, single] = [true, false].map(run);
        assert!(graphs == single, "{place:?}");
    }
}

#[test]
fn a_replayed_graph_knows_the_positions_of_a_deeper_row_in_the_same_bucket() {
    // Two rows of 150 tokens that share nothing are as many tokens as one of 300, half as deep: one bucket, of which the
    // third step is the first to have positions beyond 255.
    let flat = || {
        let mut second = long(150);
        second.ids.iter_mut().for_each(|id| *id = (*id + 7) % 29 + 2);
        vec![long(150), second]
    };
    let deep = || {
        let mut row = long(300);
        row.scored.iter_mut().skip(290).for_each(|scored| *scored = true);
        vec![row]
    };
    assert_eq!(Bucket::of(&[tree(&flat())]), Bucket::of(&[tree(&deep())]));
    let window = |step| vec![tree(&if step < 2 { flat() } else { deep() })];
    for place in graph_places().filter(|place| place.dtype == DType::F32) {
        let run = |graphs| train(&mut on_device(&place.device(), &config(), 8, DType::F32), 3, graphs, window);
        let [graphs, single] = [true, false].map(run);
        assert!(graphs == single, "{place:?}");
    }
}

#[test]
fn memory_of_graphs_is_given_back_with_the_step() {
    for place in graph_places().filter(|place| place.dtype == DType::F32) {
        let device = place.device();
        let mut model = on_device(&device, &config(), 9, DType::F32);
        let window = |_| vec![tree(&examples())];
        train(&mut model, 3, true, window);
        device.trim();
        assert_eq!(device.graph_bytes(), 0, "{place:?}");
    }
}

#[test]
fn noise_and_smoothed_targets_are_the_same_replayed_or_not() {
    let harder = Regularization { label_smoothing: 0.125, neftune_noise_alpha: 5.0, seed: 3 };
    let losses = |place: Place, graphs: bool, regularization: Regularization| {
        let mut model = on_device(&place.device(), &config(), 4, place.dtype);
        let mut step = Step::new(&model, 1.0, graphs).unwrap().with_regularization(regularization);
        let hyper = |step| AdamW { learning_rate: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, step };
        let window = || vec![tree(&examples()), tree(&examples()[1..])];
        let loss = |number| step.run(&mut model, window(), &hyper(number)).unwrap().mean_loss();
        (1..=3).map(loss).collect::<Vec<f64>>()
    };
    let cpu = places_of(DType::F32).next().unwrap();
    let expected = losses(cpu, false, harder);
    for only in
        [Regularization { label_smoothing: 0.0, ..harder }, Regularization { neftune_noise_alpha: 0.0, ..harder }]
    {
        assert!((losses(cpu, false, only)[0] / expected[0] - 1.0).abs() > 1e-4, "{only:?}");
    }
    for place in places() {
        let single = losses(place, false, harder);
        // As far as plain training is from the CPU in these types.
        let allowed = if place.dtype == DType::F32 { 1e-5 } else { 0.02 };
        assert!((single[0] / expected[0] - 1.0).abs() < allowed, "{place:?}: {single:?}, the CPU's {expected:?}");
        assert_eq!(losses(place, true, harder), single, "{place:?}");
    }
}

#[test]
fn an_update_that_is_not_finite_is_not_applied() {
    for place in places_of(DType::F32) {
        let mut model = on_device(&place.device(), &config(), 5, DType::F32);
        let mut step = Step::new(&model, 1.0, true).unwrap();
        let hyper = AdamW { learning_rate: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, step: 1 };
        let mut values = model.params.masters().unwrap().to_f64();
        // The embedding of a token that one row has.
        let width = model.config.hidden_size;
        values[12 * width] = f64::INFINITY;
        let broken: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        let mut room = model.params.zeros(model.device()).unwrap();
        let fill = |values: &mut [f32]| {
            values.copy_from_slice(&broken);
            Ok(())
        };
        model.params.set_masters(0, &mut room, fill).unwrap();
        let result = step.run(&mut model, vec![tree(&examples())], &hyper).unwrap();
        assert!(!result.is_finite());
        assert_eq!(model.params.masters().unwrap().to_f64(), values, "{place:?}");
    }
}

#[test]
fn an_update_that_is_declined_leaves_no_trace() {
    let window = |step: u64| vec![tree(&examples()[step as usize % 3..])];
    let hyper =
        |step| AdamW { learning_rate: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, step: step + 1 };
    for place in places() {
        let ends = |declined: bool| {
            let mut model = on_device(&place.device(), &config(), 4, place.dtype);
            let mut step = Step::new(&model, 1.0, true).unwrap();
            for i in 0..6 {
                if i != 3 {
                    step.run_if(&mut model, window(i), &hyper(i), true, |_| true).unwrap();
                } else if declined {
                    step.run_if(&mut model, window(i), &hyper(i), true, |seen| !seen.is_finite()).unwrap();
                }
            }
            (model.params.masters().unwrap().to_f64(), step.moments().0.to_f64(), step.moments().1.to_f64())
        };
        assert!(ends(true) == ends(false), "{place:?}");
        // Asked or not, accepted steps are the same.
        let mut model = on_device(&place.device(), &config(), 4, place.dtype);
        let mut step = Step::new(&model, 1.0, true).unwrap();
        (0..6).filter(|i| *i != 3).for_each(|i| _ = step.run(&mut model, window(i), &hyper(i)).unwrap());
        assert!(model.params.masters().unwrap().to_f64() == ends(true).0, "{place:?}");
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_refused_also_when_the_step_is_replayed() {
    for place in graph_places().filter(|place| place.dtype == DType::F32) {
        let mut model = on_device(&place.device(), &config(), 5, DType::F32);
        let mut step = Step::new(&model, 1.0, true).unwrap();
        let hyper = AdamW { learning_rate: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, step: 1 };
        for _ in 0..3 {
            step.run(&mut model, vec![tree(&examples())], &hyper).unwrap();
        }
        let before = model.params.masters().unwrap().to_f64();
        for at in [2, 8] {
            let mut wrong = examples();
            wrong[0].ids[at] = 31;
            let error = step.run(&mut model, vec![tree(&wrong)], &hyper).unwrap_err().report();
            assert!(error.contains("token id 31 is outside the vocabulary of 31"), "{error}");
        }
        assert_eq!(model.params.masters().unwrap().to_f64(), before, "{place:?}");
    }
}

/// Shared prefixes, equal prompts, prompts that are prefixes of others, lengths around the windows.
const PROMPTS: [&[u32]; 6] = [
    &[2, 7, 9, 4, 30, 11, 7, 7, 3],
    &[2, 7, 9, 4],
    &[2],
    &[2, 7, 9, 4],
    &[13, 14, 15],
    &[2, 7, 9, 4, 30, 11, 7, 7, 3, 3, 3],
];

#[test]
fn generation_gives_the_cpus_tokens() {
    let sampling = Sampling { temperature: 0.9, top_k: 20, top_p: 0.95, seed: 5 };
    for (config, place) in configs().iter().flat_map(|config| places_of(DType::F32).map(move |place| (config, place))) {
        // Drawing is slow on the emulator, and the same for every token.
        for (sampling, max_new_tokens) in [(None, 12), (Some(sampling.clone()), 3)] {
            let options = GenerateOptions { max_new_tokens, stop: vec![3], sampling, use_graphs: true };
            let expected = generate(&on_cpu(config, 6, DType::F32), &PROMPTS, &options, |_| Ok(())).unwrap();
            let model = on_device(&place.device(), config, 6, DType::F32);
            assert_eq!(generate(&model, &PROMPTS, &options, |_| Ok(())).unwrap(), expected, "{place:?}");
        }
    }
}

#[test]
fn generation_in_bf16_gives_the_same_tokens_on_every_device() {
    let options = GenerateOptions { max_new_tokens: 6, stop: vec![3], sampling: None, use_graphs: true };
    for config in configs() {
        let expected = generate(&on_cpu(&config, 6, DType::Bf16), &PROMPTS, &options, |_| Ok(())).unwrap();
        for place in places_of(DType::Bf16) {
            let model = on_device(&place.device(), &config, 6, DType::Bf16);
            let tokens = generate(&model, &PROMPTS, &options, |_| Ok(())).unwrap();
            // Sums in another order may part two logits of a random model that bf16 holds as equal.
            let same = tokens.iter().zip(&expected).filter(|(a, b)| a == b).count();
            assert!(2 * same > PROMPTS.len(), "{place:?}: {tokens:?}, the CPU's {expected:?}");
        }
    }
}

#[test]
fn steps_with_rounded_weights_are_the_cpus_and_those_of_graphs() {
    let formats = |config: &Gemma3Config| {
        let format = |spec: ParamSpec| if spec.decay { BlockFormat::Q4_0 } else { BlockFormat::Norm };
        parameter_specs(config).into_iter().map(format).collect::<Vec<_>>()
    };
    let run = |device: &Device, dtype: DType, graphs: bool| {
        let config = blocks();
        let flat: Vec<f32> = weights(&config, 4).iter().map(|&w| w as f32).collect();
        let flat = Tensor::from_slice(device, &[flat.len()], &flat);
        let mut model = Gemma3::new(config.clone(), flat).unwrap().rounded_in(dtype, &formats(&config)).unwrap();
        let mut step = Step::new(&model, 1.0, graphs).unwrap();
        let mut update = |number: u64| {
            let hyper = AdamW { learning_rate: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.1, step: number };
            let tree = TokenTree::from_examples(&examples().iter().collect::<Vec<_>>());
            step.run(&mut model, vec![tree], &hyper).unwrap()
        };
        let results: Vec<StepResult> = (1..=4).map(&mut update).collect();
        (results, model.trained().masters().unwrap().to_f64())
    };
    let expected = run(&engine::host::device(), DType::F32, false).0;
    assert!(expected[3].mean_loss() < expected[0].mean_loss());
    for place in places_of(DType::F32) {
        let (results, values) = run(&place.device(), place.dtype, false);
        // The same weights to the bit in the first step; after it an update may round to another number.
        let off = (results[0].mean_loss() / expected[0].mean_loss() - 1.0).abs();
        assert!(off < 1e-5, "{place:?}: {results:?} {expected:?}");
        if place.device().driver().captures_graphs() {
            assert!(run(&place.device(), place.dtype, true) == (results, values), "{place:?}: graphs");
        }
    }
}
