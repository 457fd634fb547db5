//! Decoded tokens as graphs: the tokens of single launches to the bit, for one launch each; and whose memory graphs use.

use engine::batch::tree::TokenTree;
use engine::device::{DType, Device, Tensor};
use engine::generate::{Chosen, Decoder, Sequence};
use engine::model::gemma3::Gemma3;
use engine::ops::adamw::AdamW;
use engine::train::step::Step;

use crate::counting::{self, Counts};
use crate::places::{Place, places};
use crate::story::{drawn, story};
use crate::tiny::{config, example, weights};

/// Devices that capture graphs.
fn graph_places() -> impl Iterator<Item = Place> {
    places().into_iter().filter(|place| place.device().driver().captures_graphs())
}

fn model(device: &Device, dtype: DType) -> Gemma3 {
    let weights: Vec<f32> = weights(&config(), 6).iter().map(|&w| w as f32).collect();
    let flat = Tensor::from_slice(device, &[weights.len()], &weights);
    Gemma3::new(config(), flat).unwrap().computed_in(dtype).unwrap()
}

/// The same model on the CPU, in f32.
fn on_cpu() -> Gemma3 {
    model(&engine::host::device(), DType::F32)
}

#[test]
fn tokens_of_graphs_are_those_of_single_launches() {
    for place in graph_places() {
        let run = |tokens: fn(&Gemma3, bool) -> Vec<Chosen>, graphs| {
            let (device, seen) = counting::device(place.device());
            let tokens = tokens(&model(&device, place.dtype), graphs);
            assert_eq!(seen.take().graphs > 2, graphs, "{place:?}");
            tokens
        };
        let chosen = run(story, false);
        assert!(chosen.iter().any(|chosen| chosen.stopped), "{place:?}: something should stop: {chosen:?}");
        assert_eq!(run(story, true), chosen, "{place:?}");
        assert_eq!(run(drawn, true), run(drawn, false), "{place:?}");
    }
}

#[test]
fn a_decoded_token_is_one_upload_one_launch_and_one_download() {
    for place in graph_places().filter(|place| place.dtype == DType::Bf16) {
        let (device, seen) = counting::device(place.device());
        let model = model(&device, place.dtype);
        let mut decoder = Decoder::new(&model, 60, &[], None).unwrap();
        decoder.admit(&[&[2, 7, 9, 4], &[2, 7], &[13]], 9).unwrap();
        // The prompts are read; then kernel by kernel, and captured.
        for _ in 0..3 {
            decoder.step().unwrap();
        }
        // Of fewer sequences, too, in the same graph.
        for sequences in [3, 2] {
            seen.take();
            assert_eq!(decoder.step().unwrap().len(), sequences);
            assert_eq!(seen.take(), Counts { uploads: 1, downloads: 1, launches: 0, graphs: 1 }, "{place:?}");
            decoder.evict(Sequence(sequences - 1)).unwrap();
        }
    }
}

#[test]
fn a_graph_from_before_a_longer_prompt_is_not_asked_for_positions_that_it_does_not_know() {
    let long: Vec<u32> = (0..254).map(|t| 2 + t % 29).collect();
    let run = |device: &Device| {
        let model = model(device, DType::F32);
        let mut decoder = Decoder::new(&model, 330, &[], None).unwrap();
        // Tables begin at 256 positions.
        decoder.admit(&[&[2, 7, 9]], 16).unwrap();
        let mut tokens: Vec<_> = (0..4).map(|_| decoder.step().unwrap()).collect();
        decoder.evict(Sequence(0)).unwrap();
        decoder.admit(&[&long], 8).unwrap();
        tokens.extend((0..6).map(|_| decoder.step().unwrap()));
        tokens
    };
    let expected = run(&engine::host::device());
    for place in graph_places().filter(|place| place.dtype == DType::F32) {
        assert_eq!(run(&place.device()), expected, "{place:?}");
    }
}

#[test]
fn a_run_and_a_decoder_go_on_with_their_graphs_when_the_other_has_gone() {
    let tokens = |decoder: &mut Decoder, steps: usize| -> Vec<u32> {
        (0..steps).map(|_| decoder.step().unwrap()[0].token).collect()
    };
    let prompt: &[u32] = &[2, 7, 9];
    let cpu = on_cpu();
    let mut expected = Decoder::new(&cpu, 20, &[], None).unwrap();
    expected.admit(&[prompt], 10).unwrap();
    let expected = tokens(&mut expected, 8);

    let examples = [example(&[2, 7, 9, 4, 30, 11, 7, 7, 3], 0), example(&[2, 7, 9, 5, 5], 1)];
    let tree = || TokenTree::from_examples(&examples.iter().collect::<Vec<_>>());
    // Nothing is learned: every step is to measure the same.
    let hyper = AdamW { learning_rate: 0.0, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, step: 1 };
    for place in graph_places().filter(|place| place.dtype == DType::F32) {
        let device = place.device();
        let mut model = model(&device, place.dtype);
        let mut step = Step::new(&model, 1.0, true).unwrap();
        let [first, captured] = [(); 2].map(|()| step.run(&mut model, vec![tree()], &hyper).unwrap());
        let mut decoder = Decoder::new(&model, 20, &[], None).unwrap();
        decoder.admit(&[prompt], 10).unwrap();
        assert_eq!(tokens(&mut decoder, 4), expected[..4], "{place:?}");
        drop(decoder);
        let replayed = step.run(&mut model, vec![tree()], &hyper).unwrap();
        assert!(first == captured && first == replayed, "{place:?}: {first:?}, {captured:?}, {replayed:?}");

        let mut decoder = Decoder::new(&model, 20, &[], None).unwrap();
        decoder.admit(&[prompt], 10).unwrap();
        let mut decoded = tokens(&mut decoder, 4);
        drop(step);
        decoded.extend(tokens(&mut decoder, 4));
        assert_eq!(decoded, expected, "{place:?}");
        drop(decoder);
        assert_eq!(device.graph_bytes(), 0, "{place:?}");
    }
}
