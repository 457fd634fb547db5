//! The decoder: sequences that come late, are added to, rest and go, each against plain recomputing of it alone.

use std::collections::BTreeMap;

use engine::generate::{Chosen, Decoder, Sampling, Sequence};
use engine::model::gemma3::Gemma3;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::tiny::{argmax, config, last_logits, model, weights};

/// A decoder beside the plain truth: every token of every sequence so far.
struct Checked<'m> {
    model: &'m Gemma3,
    decoder: Decoder<'m>,
    texts: BTreeMap<Sequence, Vec<u32>>,
}

impl<'m> Checked<'m> {
    fn new(model: &'m Gemma3, slots: usize, stop: &[u32]) -> Self {
        let decoder = Decoder::new(model, slots, stop, None).unwrap();
        Self { model, decoder, texts: BTreeMap::new() }
    }

    fn admit(&mut self, prompts: &[&[u32]], room: usize) -> Vec<Sequence> {
        let sequences = self.decoder.admit(prompts, room).unwrap();
        self.texts.extend(sequences.iter().copied().zip(prompts.iter().map(|prompt| prompt.to_vec())));
        sequences
    }

    fn append(&mut self, sequence: Sequence, tokens: &[u32]) {
        self.decoder.append(sequence, tokens).unwrap();
        self.texts.get_mut(&sequence).unwrap().extend(tokens);
    }

    fn evict(&mut self, sequence: Sequence) {
        self.decoder.evict(sequence).unwrap();
        self.texts.remove(&sequence).unwrap();
    }

    /// A step whose every token is the likeliest after the whole text, computed without a cache.
    fn step(&mut self) -> Vec<Chosen> {
        let chosen = self.decoder.step().unwrap();
        for Chosen { sequence, token, .. } in &chosen {
            let text = self.texts.get_mut(sequence).unwrap();
            assert_eq!(*token, argmax(&last_logits(self.model, text)), "{sequence:?} after {text:?}");
            text.push(*token);
        }
        chosen
    }

    fn steps(&mut self, steps: usize) {
        for _ in 0..steps {
            assert_eq!(self.step().len(), self.texts.len(), "every sequence gets a token");
        }
    }
}

#[test]
fn sequences_may_come_while_others_are_decoded() {
    let model = model::<f64>(&weights(&config(), 6));
    let mut checked = Checked::new(&model, 100, &[]);
    checked.admit(&[&[2, 7, 9, 4, 30], &[2, 7, 9]], 12);
    checked.steps(3);
    // One that begins alike, one that does not, one that is there already.
    checked.admit(&[&[2, 7, 9, 4, 11, 5]], 8);
    checked.step();
    checked.admit(&[&[13, 14], &[2, 7, 9]], 8);
    checked.steps(6);
}

#[test]
fn what_is_appended_is_read_and_not_chosen() {
    let model = model::<f64>(&weights(&config(), 6));
    let mut checked = Checked::new(&model, 100, &[]);
    let [first, second] = checked.admit(&[&[2, 7, 9, 4, 30], &[2, 7, 9]], 20)[..] else { panic!("two sequences") };
    // At once, one token, several (more than the window of 4), nothing.
    checked.append(second, &[8, 8]);
    checked.steps(2);
    checked.append(first, &[3]);
    checked.append(second, &[5, 6, 7, 8, 9, 10]);
    checked.append(second, &[]);
    checked.steps(3);
}

#[test]
fn a_sequence_that_stopped_rests_until_something_is_appended() {
    let model = model::<f64>(&weights(&config(), 6));
    let mut free = Checked::new(&model, 40, &[]);
    free.admit(&[&[2, 7, 9]], 4);
    let stop = free.step()[0].token;

    let mut checked = Checked::new(&model, 40, &[stop]);
    let [first, second] = checked.admit(&[&[2, 7, 9], &[13, 14, 15]], 10)[..] else { panic!("two sequences") };
    let chosen = checked.step();
    assert!(chosen[0].stopped && !chosen[1].stopped, "the model and the prompts should tell them apart: {chosen:?}");
    assert!(checked.step().iter().all(|chosen| chosen.sequence == second));
    checked.append(first, &[21, 22]);
    assert!(checked.step().iter().any(|chosen| chosen.sequence == first));
}

#[test]
fn an_evicted_sequences_slots_serve_the_next_one() {
    let model = model::<f64>(&weights(&config(), 6));
    // As many slots as the first two take: a prefix of two, and for each one token and room for five.
    let mut checked = Checked::new(&model, 2 + 2 * (1 + 5), &[]);
    let [first, second] = checked.admit(&[&[2, 7, 9], &[2, 7, 4]], 5)[..] else { panic!("two sequences") };
    checked.steps(3);
    let error = checked.decoder.admit(&[&[2, 7, 5]], 5).unwrap_err().to_string();
    assert!(error.contains("0 of 14 slots are free"), "{error}");
    checked.evict(first);
    checked.admit(&[&[2, 7, 5]], 5);
    checked.steps(2);
    // A stranger takes the place of the one at the end.
    checked.evict(second);
    checked.admit(&[&[13]], 5);
    checked.steps(3);
}

#[test]
fn a_prompt_that_goes_before_it_was_computed_leaves_the_others_whole() {
    let model = model::<f64>(&weights(&config(), 6));
    let mut checked = Checked::new(&model, 60, &[]);
    let first = checked.admit(&[&[2, 7, 9, 4]], 6)[0];
    checked.admit(&[&[2, 7, 9, 5]], 6);
    checked.evict(first);
    checked.admit(&[&[2, 7, 9, 4, 4]], 6);
    checked.steps(4);
}

#[test]
fn any_mixture_of_calls_gives_every_sequence_what_it_gets_alone() {
    let model = model::<f64>(&weights(&config(), 1));
    for seed in 0..25 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut checked = Checked::new(&model, 90, &[]);
        let mut room_left: BTreeMap<Sequence, usize> = BTreeMap::new();
        for _ in 0..25 {
            let living: Vec<Sequence> = room_left.keys().copied().collect();
            match (rng.random_range(0..6), living.as_slice()) {
                (0 | 1, _) | (_, []) => {
                    // Prompts over two tokens share their beginnings often.
                    let prompt = |rng: &mut ChaCha8Rng| -> Vec<u32> {
                        (0..rng.random_range(1..7)).map(|_| rng.random_range(7..9)).collect()
                    };
                    let prompts: Vec<Vec<u32>> = (0..rng.random_range(1..4)).map(|_| prompt(&mut rng)).collect();
                    let prompts: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt[..]).collect();
                    let room = rng.random_range(1..9);
                    if let Ok(sequences) = checked.decoder.admit(&prompts, room) {
                        for (sequence, prompt) in sequences.into_iter().zip(prompts) {
                            checked.texts.insert(sequence, prompt.to_vec());
                            room_left.insert(sequence, room);
                        }
                    }
                }
                (2, living) => {
                    let sequence = living[rng.random_range(0..living.len())];
                    checked.evict(sequence);
                    room_left.remove(&sequence);
                }
                (3, living) => {
                    let sequence = living[rng.random_range(0..living.len())];
                    let tokens = [7, 30, 8];
                    // One more for the token that was chosen last.
                    let left = room_left.get_mut(&sequence).unwrap();
                    if *left > tokens.len() {
                        checked.append(sequence, &tokens);
                        *left -= tokens.len();
                    }
                }
                _ => {
                    // A sequence whose room is used up goes before it would be an error.
                    let full = living.iter().filter(|sequence| room_left[*sequence] == 0).copied();
                    for sequence in full.collect::<Vec<_>>() {
                        checked.evict(sequence);
                        room_left.remove(&sequence);
                    }
                    checked.steps(1);
                    room_left.values_mut().for_each(|left| *left -= 1);
                }
            }
        }
    }
}

#[test]
fn draws_are_a_sequences_own_whatever_happens_beside_it() {
    let model = model::<f64>(&weights(&config(), 1));
    let sampling = Sampling { temperature: 2.0, top_k: 0, top_p: 1.0, seed: 5 };
    let mut alone = Decoder::new(&model, 40, &[], Some(sampling.clone())).unwrap();
    alone.admit(&[&[2, 7, 9]], 12).unwrap();
    let expected: Vec<u32> = (0..12).map(|_| alone.step().unwrap()[0].token).collect();

    let mut decoder = Decoder::new(&model, 80, &[], Some(sampling)).unwrap();
    let sequence = decoder.admit(&[&[2, 7, 9]], 12).unwrap()[0];
    let mut drawn = Vec::new();
    for step in 0..12 {
        if step == 3 {
            decoder.admit(&[&[2, 7, 9], &[4]], 12).unwrap();
        }
        if step == 8 {
            decoder.evict(Sequence(1)).unwrap();
        }
        drawn.extend(decoder.step().unwrap().iter().filter(|c| c.sequence == sequence).map(|c| c.token));
    }
    assert_eq!(drawn, expected);
}

#[test]
fn calls_that_cannot_be_met_say_why_and_change_nothing() {
    let model = model::<f64>(&weights(&config(), 6));
    let mut checked = Checked::new(&model, 20, &[]);
    let sequence = checked.admit(&[&[2, 7, 9]], 2)[0];
    let message = |result: engine::error::Result<()>| result.unwrap_err().to_string();
    assert_eq!(message(checked.decoder.admit(&[&[2], &[]], 2).map(drop)), "prompt 2 is empty");
    checked.steps(1);
    // With the token that was chosen last these are three.
    assert!(message(checked.decoder.append(sequence, &[1, 1])).contains("room for 2 tokens"));
    checked.steps(2);
    assert!(message(checked.decoder.step().map(drop)).contains("sequence 0 is full"));
    checked.evict(sequence);
    assert!(message(checked.decoder.evict(sequence)).contains("sequence 0 is not in the decoder"));
    assert!(message(checked.decoder.append(sequence, &[1])).contains("sequence 0 is not in the decoder"));
    assert_eq!(checked.step(), []);
    checked.admit(&[&[3, 4, 5]], 10);
    checked.steps(4);
}

#[cfg(engine_emulated)]
#[test]
fn a_device_that_runs_the_kernels_chooses_the_cpus_tokens() {
    use engine::device::{DType, Device, Tensor};
    let run = |device: &Device| {
        let weights: Vec<f32> = weights(&config(), 6).iter().map(|&w| w as f32).collect();
        let weights = Tensor::from_slice(device, &[weights.len()], &weights);
        let model = Gemma3::new(config(), weights).unwrap().computed_in(DType::F32).unwrap();
        let mut decoder = Decoder::new(&model, 60, &[], None).unwrap();
        let sequence = decoder.admit(&[&[2, 7, 9, 4, 30], &[2, 7, 9]], 9).unwrap()[0];
        let mut tokens = Vec::new();
        for step in 0..6 {
            match step {
                2 => drop(decoder.admit(&[&[2, 7, 9, 4, 11, 5]], 5).unwrap()),
                3 => decoder.append(sequence, &[5, 6, 7]).unwrap(),
                4 => decoder.evict(Sequence(1)).unwrap(),
                _ => {}
            }
            tokens.extend(decoder.step().unwrap());
        }
        tokens
    };
    assert_eq!(run(&engine::emulated::device().unwrap()), run(&engine::host::device()));
}
