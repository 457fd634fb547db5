//! What makes training harder: noise has no part in evaluations, smoothed targets have.

use engine::train::metrics::Record;
use engine::train::options::TrainOptions;

use crate::{Log, run};

/// The loss of the first update, and the evaluation before it.
fn losses(label_smoothing_factor: f64, neftune_noise_alpha: f64, seed: u64) -> [f64; 2] {
    let (max_steps, shuffle, eval_on_start) = (Some(1), false, true);
    let defaults = TrainOptions::default();
    let options = TrainOptions {
        label_smoothing_factor,
        neftune_noise_alpha,
        seed,
        max_steps,
        shuffle,
        eval_on_start,
        ..defaults
    };
    let (mut run, log) = (run(&options), Log::default());
    run.observe(log.clone());
    run.run_to_end().unwrap();
    let records = log.records();
    let training = records.iter().find_map(|record| match record {
        Record::Train(record) => Some(record.loss),
        _ => None,
    });
    let evaluation = records.iter().find_map(|record| match record {
        Record::Eval(record) => Some(record.eval_loss),
        _ => None,
    });
    [training.unwrap(), evaluation.unwrap()]
}

#[test]
fn noise_is_of_training_rows_and_follows_from_the_seed() {
    let (plain, noisy) = (losses(0.0, 0.0, 1), losses(0.0, 5.0, 1));
    assert_ne!(noisy[0], plain[0]);
    assert_eq!(noisy[1], plain[1]);
    assert_eq!(losses(0.0, 5.0, 1), noisy);
    assert_ne!(losses(0.0, 5.0, 2)[0], noisy[0]);
}

#[test]
fn smoothed_targets_are_those_of_evaluations_too() {
    let (plain, smooth) = (losses(0.0, 0.0, 1), losses(0.25, 0.0, 1));
    assert!(smooth.iter().zip(plain).all(|(smooth, plain)| *smooth != plain), "{smooth:?}, {plain:?}");
}
