//! Generation: many prompts over one cache against each prompt alone without one; stopping; sampling.

use std::collections::BTreeSet;

use engine::generate::{GenerateOptions, Sampling, generate};
use engine::model::gemma3::Gemma3;

use crate::tiny::{argmax, config, last_logits, model, weights};

/// Shared prefixes, equal prompts, prompts that are prefixes of others, lengths around the window of 4.
const PROMPTS: [&[u32]; 8] = [
    &[2, 7, 9, 4, 30, 11, 7, 7, 3],
    &[2, 7, 9, 4],
    &[2, 7, 9, 4, 30, 12],
    &[2],
    &[2, 7, 9, 4],
    &[13, 14, 15],
    &[2, 7, 9, 4, 30, 11, 7, 7, 3, 3, 3],
    &[2, 7],
];

fn greedy(max_new_tokens: usize, stop: &[u32]) -> GenerateOptions {
    GenerateOptions { max_new_tokens, stop: stop.to_vec(), sampling: None, use_graphs: true }
}

fn sampled(max_new_tokens: usize, sampling: Sampling) -> GenerateOptions {
    GenerateOptions { max_new_tokens, stop: vec![], sampling: Some(sampling), use_graphs: true }
}

const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 5 };

fn run(model: &Gemma3, prompts: &[&[u32]], options: &GenerateOptions) -> Vec<Vec<u32>> {
    generate(model, prompts, options, |_| Ok(())).unwrap()
}

/// Greedy by computing the whole sequence again for each token.
fn recomputed(model: &Gemma3, prompt: &[u32], max_new_tokens: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..max_new_tokens {
        ids.push(argmax(&last_logits(model, &ids)));
    }
    ids.split_off(prompt.len())
}

#[test]
fn prompts_decoded_together_give_what_each_gives_alone_without_a_cache() {
    for seed in [1, 6] {
        let model = model::<f64>(&weights(&config(), seed));
        let outputs = run(&model, &PROMPTS, &greedy(20, &[]));
        let distinct = outputs.iter().map(|output| BTreeSet::from_iter(output).len()).sum::<usize>();
        assert!(distinct > 6 * PROMPTS.len(), "outputs that repeat one token prove little: {outputs:?}");
        for (prompt, output) in PROMPTS.iter().zip(&outputs) {
            assert_eq!(*output, recomputed(&model, prompt, 20), "{prompt:?} of model {seed}");
        }
    }
}

#[test]
fn a_stop_token_ends_an_output_and_is_its_last_token() {
    let model = model::<f64>(&weights(&config(), 1));
    let free = run(&model, &PROMPTS, &greedy(20, &[]));
    // The stops end some outputs at different places and leave others to run on.
    let stop = [free[0][2], free[1][5]];
    let expected: Vec<Vec<u32>> = free
        .iter()
        .map(|output| match output.iter().position(|id| stop.contains(id)) {
            Some(at) => output[..=at].to_vec(),
            None => output.clone(),
        })
        .collect();
    let lengths: BTreeSet<usize> = expected.iter().map(Vec::len).collect();
    assert!(lengths.len() > 2, "the stops should tell the outputs apart: {lengths:?}");
    assert_eq!(run(&model, &PROMPTS, &greedy(20, &stop)), expected);
}

#[test]
fn progress_counts_the_outputs_that_have_ended() {
    let model = model::<f64>(&weights(&config(), 1));
    let stop = run(&model, &PROMPTS, &greedy(3, &[]))[0][1];
    let mut seen = Vec::new();
    let outputs = generate(&model, &PROMPTS, &greedy(20, &[stop]), |ended| {
        seen.push(ended);
        Ok(())
    })
    .unwrap();
    let ended_by = |step: usize| outputs.iter().filter(|o| o.len() <= step).count();
    let steps = outputs.iter().map(Vec::len).max().unwrap();
    assert_eq!(seen, (1..=steps).map(ended_by).collect::<Vec<_>>());
    assert_eq!(seen.last(), Some(&PROMPTS.len()));
}

#[test]
fn an_empty_prompt_is_an_error_that_names_it_and_no_prompt_is_no_output() {
    let model = model::<f32>(&weights(&config(), 1));
    let error = generate(&model, &[&[2], &[]], &greedy(3, &[]), |_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "prompt 2 is empty");
    assert!(run(&model, &[], &greedy(3, &[])).is_empty());
    assert_eq!(run(&model, &[&[2]], &greedy(0, &[])), [[0u32; 0]]);
}

#[test]
fn sampling_repeats_with_its_seed_and_differs_with_another() {
    let model = model::<f64>(&weights(&config(), 1));
    let run = |seed| run(&model, &PROMPTS, &sampled(20, Sampling { temperature: 2.0, seed, ..PLAIN }));
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
    let outputs = run(5);
    assert_ne!(outputs[1], outputs[4], "equal prompts draw from streams of their own");
}

#[test]
fn a_sampled_output_does_not_depend_on_the_prompts_beside_it() {
    let model = model::<f64>(&weights(&config(), 1));
    let options = sampled(20, Sampling { temperature: 2.0, ..PLAIN });
    let together = run(&model, &PROMPTS, &options);
    for i in 0..PROMPTS.len() {
        // The others are replaced by ones that share nothing, or everything, with it.
        for other in [&[21u32, 22, 23][..], PROMPTS[i]] {
            let mut prompts = [other; PROMPTS.len()];
            prompts[i] = PROMPTS[i];
            assert_eq!(run(&model, &prompts, &options)[i], together[i], "prompt {i} beside {other:?}");
        }
        assert_eq!(run(&model, &PROMPTS[..=i], &options)[i], together[i], "prompt {i} without those after it");
    }
}

#[test]
fn prompts_too_many_for_one_tree_are_decoded_in_groups_with_the_same_outputs() {
    let model = model::<f32>(&weights(&config(), 1));
    let stop: Vec<u32> = (0..31).filter(|id| id % 2 == 0).collect();
    for sampling in [Sampling { top_k: 1, ..PLAIN }, Sampling { temperature: 3.0, ..PLAIN }] {
        let options = |max_new_tokens| GenerateOptions {
            max_new_tokens,
            stop: stop.clone(),
            sampling: Some(sampling.clone()),
            use_graphs: true,
        };
        let one_group = run(&model, &PROMPTS, &options(60));
        assert!(one_group.iter().all(|output| output.len() < 60), "every output stops by itself: {one_group:?}");
        // A tree holds 32,768 slots: two prompts with 16,000 slots each.
        assert_eq!(run(&model, &PROMPTS, &options(16_000)), one_group);
    }
}

#[test]
fn top_k_of_one_is_greedy() {
    let model = model::<f64>(&weights(&config(), 1));
    let options = sampled(20, Sampling { temperature: 3.0, top_k: 1, ..PLAIN });
    assert_eq!(run(&model, &PROMPTS, &options), run(&model, &PROMPTS, &greedy(20, &[])));
}

const DRAWS: usize = 4000;

/// How often each token is the first of [`DRAWS`] outputs of one prompt.
fn frequencies(model: &Gemma3, prompt: &[u32], sampling: Sampling) -> Vec<f64> {
    let outputs = run(model, &vec![prompt; DRAWS], &sampled(1, sampling));
    let mut counts = vec![0.0; model.config.vocab_size];
    outputs.iter().for_each(|output| counts[output[0] as usize] += 1.0 / DRAWS as f64);
    counts
}

/// Probabilities at a temperature, of the tokens that `keep` (rank, probability of those ranked before) lets through.
fn probabilities(logits: &[f64], temperature: f64, keep: impl Fn(usize, f64) -> bool) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|z| ((z - max) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let (mut kept, mut before) = (vec![0.0; weights.len()], 0.0);
    for (rank, &id) in order.iter().enumerate() {
        if keep(rank, before) {
            kept[id] = weights[id];
        }
        before += weights[id] / total;
    }
    let total: f64 = kept.iter().sum();
    kept.iter().map(|w| w / total).collect()
}

/// A frequency of n draws has the standard deviation sqrt(p (1 - p) / n); five of them are passed once in 1.7 million.
fn check_frequencies(name: &str, got: &[f64], expected: &[f64]) {
    for (id, (f, p)) in got.iter().zip(expected).enumerate() {
        let bound = 5.0 * (p * (1.0 - p) / DRAWS as f64).sqrt() + 0.5 / DRAWS as f64;
        assert!((f - p).abs() <= bound && (*p > 0.0 || *f == 0.0), "{name}: token {id} drawn {f}, expected {p}");
    }
}

#[test]
fn draws_follow_temperature_top_k_and_top_p() {
    let model = model::<f64>(&weights(&config(), 1));
    let logits = last_logits(&model, PROMPTS[0]);
    let frequencies = |sampling| frequencies(&model, PROMPTS[0], sampling);
    for temperature in [0.5, 1.0, 4.0] {
        let expected = probabilities(&logits, temperature, |_, _| true);
        check_frequencies("temperature", &frequencies(Sampling { temperature, ..PLAIN }), &expected);
    }
    let hot = Sampling { temperature: 8.0, ..PLAIN };
    let expected = probabilities(&logits, 8.0, |rank, _| rank < 5);
    check_frequencies("top_k", &frequencies(Sampling { top_k: 5, ..hot.clone() }), &expected);
    // The smallest set that reaches top_p: the token that crosses it is in.
    let expected = probabilities(&logits, 8.0, |_, before| before < 0.6);
    let kept = expected.iter().filter(|&&p| p > 0.0).count();
    assert!(kept > 3 && kept < 28, "top_p keeps {kept}");
    check_frequencies("top_p", &frequencies(Sampling { top_p: 0.6, ..hot.clone() }), &expected);
    // Of both, top_p reads the probabilities among the top k.
    let five = probabilities(&logits, 8.0, |rank, _| rank < 5);
    let logits_of_five: Vec<f64> = five.iter().map(|p| p.ln() * 8.0).collect();
    let expected = probabilities(&logits_of_five, 8.0, |_, before| before < 0.6);
    check_frequencies("both", &frequencies(Sampling { top_k: 5, top_p: 0.6, ..hot }), &expected);
}
