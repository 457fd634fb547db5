//! The next batch is made while the device is busy with a step; nothing else of a run shows it.

use engine::batch::Example;
use engine::device::{DType, Tensor};
use engine::model::gemma3::Gemma3;
use engine::session::{Outcome, Run};
use engine::train::options::{EvalStrategy, TrainOptions};

use crate::counting::{self, Event, Seen};
use crate::tiny::{config, example, weights};
use crate::{rows, run};

/// Updates of one window an epoch, without evaluations.
fn options(max_steps: u64) -> TrainOptions {
    TrainOptions {
        per_device_train_batch_size: 7,
        max_steps: Some(max_steps),
        eval_strategy: EvalStrategy::No,
        ..TrainOptions::default()
    }
}

/// The events of an update.
fn update(run: &mut Run, seen: &Seen) -> Vec<Event> {
    seen.take_events();
    while !matches!(run.step().unwrap(), Outcome::Updated) {}
    seen.take_events()
}

#[cfg(engine_emulated)]
#[test]
fn the_next_batch_is_made_between_queueing_a_step_and_reading_its_results() {
    use Event::{Batch, Download, Graph, Launch, Upload};
    let (device, seen) = counting::device(engine::emulated::device().unwrap());
    let weights: Vec<f32> = weights(&config(), 3).iter().map(|&w| w as f32).collect();
    let model = Gemma3::new(config(), Tensor::from_slice(&device, &[weights.len()], &weights)).unwrap();
    let model = model.computed_in(DType::Bf16).unwrap();
    let mut run = Run::prepare(model, rows(), Vec::new(), options(4)).unwrap();
    // Nothing was made ahead of the first step; the second is captured and the third replayed.
    let first = update(&mut run, &seen);
    let made = first.iter().position(|event| *event == Batch).unwrap();
    assert!(!first[..made].contains(&Launch), "{first:?}");
    assert_eq!(first[first.len() - 3..], [Launch, Batch, Download]);
    let captured = update(&mut run, &seen);
    assert!(captured[..captured.len() - 2].iter().all(|event| *event != Batch), "{captured:?}");
    assert_eq!(captured[captured.len() - 3..], [Graph, Batch, Download]);
    assert_eq!(update(&mut run, &seen), [Upload, Graph, Batch, Download]);
    assert_eq!(update(&mut run, &seen), [Upload, Graph, Download], "there is no next one");
}

#[test]
fn a_batch_that_cannot_be_made_fails_its_own_step() {
    let mut wrong: Vec<Example> = rows();
    wrong.push(example(&[2, 3, 31], 1));
    let options = TrainOptions { per_device_train_batch_size: 4, shuffle: false, ..options(2) };
    let mut run = Run::prepare(run(&options).finish().model, wrong, Vec::new(), options).unwrap();
    assert!(matches!(run.step().unwrap(), Outcome::Updated));
    for _ in 0..2 {
        let steps = std::iter::from_fn(|| Some(run.step()));
        let error = steps.filter_map(Result::err).next().unwrap();
        assert!(error.report().contains("token id 31 is outside the vocabulary of 31"), "{}", error.report());
    }
}
