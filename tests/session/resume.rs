//! A run that is stopped, and goes on from its state with a model that was loaded anew, is equal to the bit to one that
//! never stopped.

use engine::batch::Example;
use engine::device::DType;
use engine::error::Kind;
use engine::session::{Identity, Outcome, Position, Run, State};
use engine::train::metrics::Record;
use engine::train::options::{EvalStrategy, Grouping, LossSpike, TrainOptions};
use engine::train::schedule::ScheduleKind;

use crate::tiny::{config, example, model, weights};
use crate::{Log, rows, run};

fn options() -> TrainOptions {
    TrainOptions {
        num_train_epochs: 2.5,
        per_device_train_batch_size: 2,
        learning_rate: 1e-2,
        lr_scheduler_type: ScheduleKind::Cosine,
        warmup_steps: 2.0,
        weight_decay: 0.1,
        ..TrainOptions::default()
    }
}

/// Runs of several kinds, with the number of their updates in an epoch; None: it is not always the same.
fn kinds() -> Vec<(TrainOptions, Option<u64>)> {
    let fixed = vec![
        (options(), 4),
        (TrainOptions { shuffle: false, eval_strategy: EvalStrategy::Steps(3), ..options() }, 4),
        (TrainOptions { gradient_accumulation_steps: 2, logging_steps: 3, num_train_epochs: 4.0, ..options() }, 2),
        (TrainOptions { per_device_train_batch_size: 7, max_steps: Some(3), logging_steps: 2, ..options() }, 1),
        // Rows of 6 to 12 tokens.
        (TrainOptions { packing: Some(20), per_device_train_batch_size: 1, ..options() }, 4),
        (TrainOptions { group_by: Grouping::Length, ..options() }, 4),
        (TrainOptions { group_by: Grouping::Prefix, ..options() }, 4),
        (TrainOptions { label_smoothing_factor: 0.1, neftune_noise_alpha: 5.0, ..options() }, 4),
    ];
    let counted = TrainOptions { max_tokens_per_batch: Some(21), ..options() };
    let fixed = fixed.into_iter().map(|(options, steps)| (options, Some(steps)));
    fixed.chain([(counted, None)]).collect()
}

/// The state without the clock's part.
fn timeless(mut state: State) -> State {
    (state.progress.seconds, state.progress.unlogged.seconds) = (0.0, 0.0);
    state
}

/// What is left of a run from here: its last state, and all records of `log`.
fn finished(mut run: Run, log: &Log) -> (State, Vec<Record>) {
    run.observe(log.clone());
    run.run_to_end().unwrap();
    let state = timeless(run.state().unwrap());
    assert!(run.finish().failures.is_empty());
    (state, log.records())
}

/// A run of `steps` steps, its state, and a new run that goes on from it.
fn interrupted(options: &TrainOptions, steps: usize, log: &Log) -> (Run, State) {
    let mut first = run(options);
    first.observe(log.clone());
    for _ in 0..steps {
        first.step().unwrap();
    }
    let state = first.state().unwrap();
    drop(first);
    // Other weights than the run began with: all must come from the state.
    let loaded = model::<f32>(&weights(&config(), 99));
    let run = Run::from_state(state.clone(), loaded, rows(), rows().split_off(4), options.clone()).unwrap();
    (run, state)
}

#[test]
fn a_run_that_was_stopped_anywhere_ends_equal_to_the_bit() {
    for (options, steps_per_epoch) in kinds() {
        let expected = finished(run(&options), &Log::default());
        let evaluations = expected.1.iter().filter(|record| matches!(record, Record::Eval(_))).count();
        let mut counted = run(&options);
        let steps = (0..).find(|_| matches!(counted.step().unwrap(), Outcome::Finished)).unwrap();
        assert!(evaluations > 1 && expected.0.weights.iter().all(|w| w.is_finite()));
        let (mut at_an_epochs_end, mut inside, mut unlogged, mut due, mut saves) = (0, 0, 0, 0, 0);
        for stop in 0..=steps {
            let log = Log::default();
            let (run, state) = interrupted(&options, stop, &log);
            let Position { step, epoch, window } = state.progress.position;
            if let Some(steps_per_epoch) = steps_per_epoch {
                assert_eq!(step, epoch * steps_per_epoch + window as u64);
            }
            at_an_epochs_end += usize::from(window == 0 && step > 0);
            inside += usize::from(window > 0);
            unlogged += usize::from(state.progress.unlogged.steps > 0);
            due += usize::from(state.progress.evaluation_due);
            saves += usize::from(state.progress.save_due && !state.progress.evaluation_due);
            let (last, records) = finished(run, &log);
            assert_eq!(records, expected.1, "stopped at {:?}", state.progress.position);
            // assert_eq would print thousands of weights.
            assert!(last == expected.0, "stopped at {:?}: the last states differ", state.progress.position);
        }
        assert!(at_an_epochs_end > 0 && due == evaluations && saves > 0);
        assert!(inside > 0 || steps_per_epoch == Some(1));
        assert!(unlogged > 0 || options.logging_steps == 1);
    }
}

#[test]
fn a_run_may_go_on_with_gradient_checkpointing() {
    let expected = finished(run(&options()), &Log::default()).0;
    let (first, state) = interrupted(&options(), 6, &Log::default());
    let identity = |options: &TrainOptions| Identity::new(first.model(), &rows(), &[], options).unwrap();
    let checkpointing = TrainOptions { gradient_checkpointing: true, ..options() };
    assert_eq!(identity(&options()).check(&identity(&checkpointing)).unwrap(), None);
    let loaded = model::<f32>(&weights(&config(), 99));
    let run = Run::from_state(state, loaded, rows(), rows().split_off(4), checkpointing).unwrap();
    assert!(finished(run, &Log::default()).0 == expected);
}

#[test]
fn an_update_of_uneven_batches_is_that_of_one_batch() {
    let step = |max_tokens_per_batch, gradient_accumulation_steps| {
        let options = TrainOptions {
            max_tokens_per_batch,
            gradient_accumulation_steps,
            per_device_train_batch_size: 7,
            max_steps: Some(1),
            shuffle: false,
            ..options()
        };
        let log = Log::default();
        let (state, records) = finished(run(&options), &log);
        let Record::Train(record) = &records[0] else { panic!("{records:?}") };
        (state, record.loss, record.grad_norm)
    };
    let (whole, loss, norm) = step(None, 1);
    let (parts, parts_loss, parts_norm) = step(Some(12), 99);
    // Sums of f32 in another order: some roundings of 2^-24. A mean of the batches' means is 1e-3 away.
    assert!((loss - parts_loss).abs() < 1e-6 * loss, "{loss} {parts_loss}");
    assert!((norm - parts_norm).abs() < 1e-5 * norm, "{norm} {parts_norm}");
    assert_eq!(whole.progress.num_tokens, parts.progress.num_tokens);
    assert_eq!((parts.progress.position.epoch, parts.progress.position.window), (1, 0));
}

#[test]
fn a_state_put_back_is_the_state_that_was_taken() {
    let (mut run, state) = interrupted(&options(), 6, &Log::default());
    assert!(timeless(run.state().unwrap()) == timeless(state.clone()));
    assert!(run.state().unwrap().progress.seconds >= state.progress.seconds);
}

#[test]
fn a_finished_run_stays_finished_when_it_is_put_back() {
    let (mut run, state) = interrupted(&options(), 100, &Log::default());
    assert!(matches!(run.step().unwrap(), Outcome::Finished));
    assert!(run.is_trained() && timeless(run.state().unwrap()) == timeless(state));
}

#[test]
fn a_state_of_another_run_is_refused() {
    let (_, state) = interrupted(&options(), 3, &Log::default());
    let put_back = |state: &State, options: TrainOptions| {
        let model = model::<f32>(&weights(&config(), 3));
        Run::from_state(state.clone(), model, rows(), Vec::new(), options).err().expect("it is refused")
    };
    let error = put_back(&state, TrainOptions { seed: 7, ..options() });
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("`--seed 42`") && error.to_string().contains("`--seed 7`"), "{error}");
    let error = put_back(&state, TrainOptions { shuffle: false, ..options() });
    assert!(error.to_string().contains("`--shuffle false`"), "{error}");
    put_back(&state, TrainOptions { per_device_train_batch_size: 7, ..options() });
    let mut other = state.clone();
    other.moments[1].pop();
    assert_eq!(put_back(&other, options()).kind(), Kind::Model);
}

/// Rows that are alike, and one that is not.
fn rows_with_a_stranger() -> Vec<Example> {
    let row = |r: u32| (0..9).map(|t| if r == 75 { (7 * t * t + 3) % 31 } else { 2 + t }).collect::<Vec<u32>>();
    (0..80).map(|r| example(&row(r), 2)).collect()
}

#[test]
fn a_step_whose_loss_stands_out_is_skipped_also_by_a_run_that_goes_on() {
    let skip = TrainOptions {
        num_train_epochs: 1.0,
        per_device_train_batch_size: 1,
        shuffle: false,
        loss_spike: LossSpike::Skip,
        ..options()
    };
    let loaded = |seed: u64, dtype: DType| model::<f32>(&weights(&config(), seed)).computed_in(dtype).unwrap();
    // The weights before and after the stranger's step, and the last ones; stopped and put back before `stop`.
    let weights_in = |dtype: DType, options: &TrainOptions, stop: u64| {
        let run = Run::prepare(loaded(3, dtype), rows_with_a_stranger(), Vec::new(), options.clone());
        let (mut run, mut seen) = (run.unwrap(), Vec::new());
        while !run.is_trained() {
            let step = run.position().step;
            if step == stop {
                let state = run.state().unwrap();
                let other = loaded(99, dtype);
                run = Run::from_state(state, other, rows_with_a_stranger(), Vec::new(), options.clone()).unwrap();
            }
            if step == 75 || step == 76 {
                seen.push(run.state().unwrap().weights);
            }
            run.step().unwrap();
        }
        seen.push(run.state().unwrap().weights);
        seen
    };
    let weights_of = |options: &TrainOptions, stop: u64| weights_in(DType::F32, options, stop);
    let skipped = weights_of(&skip, 99);
    assert!(skipped[0] == skipped[1] && skipped[1] != skipped[2]);
    assert!(weights_of(&skip, 74) == skipped, "put back before the stranger");
    // The copy that is computed with is rounded by the number of the last update that changed it.
    let skipped_in_bf16 = weights_in(DType::Bf16, &skip, 99);
    assert!(weights_in(DType::Bf16, &skip, 76) == skipped_in_bf16, "put back behind the stranger");
    let warned = weights_of(&TrainOptions { loss_spike: LossSpike::Warn, ..skip.clone() }, 99);
    assert!(warned[0] == skipped[0] && warned[0] != warned[1]);
    let never = weights_of(&TrainOptions { loss_spike_z: 0.0, ..skip }, 99);
    assert!(never == warned);
}

#[test]
fn a_run_that_diverges_keeps_its_last_good_weights_and_can_be_saved() {
    let mut run = run(&TrainOptions { learning_rate: 1e30, warmup_steps: 0.0, max_steps: Some(9), ..options() });
    run.step().unwrap();
    let before = timeless(run.state().unwrap());
    let error = loop {
        match run.step().unwrap() {
            Outcome::Diverged(error) => break error,
            Outcome::Evaluated | Outcome::Updated | Outcome::SaveDue => {}
            Outcome::Finished | Outcome::Interrupted => panic!("it should have diverged"),
        }
    };
    assert!(error.to_string().contains("step 2: loss"), "{error}");
    assert!(timeless(run.state().unwrap()) == before);
    assert!(run.run_to_end().is_err());
}

#[cfg(engine_emulated)]
#[test]
fn a_run_on_a_device_goes_on_equal_to_the_bit_in_bf16() {
    use engine::device::Tensor;
    use engine::model::gemma3::Gemma3;
    let options = TrainOptions { max_steps: Some(5), per_device_train_batch_size: 1, ..options() };
    let loaded = |seed: u64| {
        let weights: Vec<f32> = weights(&config(), seed).iter().map(|&w| w as f32).collect();
        let weights = Tensor::from_slice(&engine::emulated::device().unwrap(), &[weights.len()], &weights);
        Gemma3::new(config(), weights).unwrap().computed_in(DType::Bf16).unwrap()
    };
    let rows = || rows()[..3].to_vec();
    let prepared = || Run::prepare(loaded(3), rows(), rows(), options.clone()).unwrap();
    let log = Log::default();
    let mut first = prepared();
    first.observe(log.clone());
    for _ in 0..3 {
        first.step().unwrap();
    }
    let state = first.state().unwrap();
    drop(first);
    let second = Run::from_state(state, loaded(99), rows(), rows(), options.clone()).unwrap();
    let (last, records) = finished(second, &log);
    let expected = finished(prepared(), &Log::default());
    assert_eq!(records, expected.1);
    assert!(last == expected.0, "the last states differ");
}
