//! The library's defaults are the command line's.

use clap::Parser;
use engine::cli::args::{Cli, Command, TrainArgs};
use engine::session::{DeviceName, ExampleOptions, Generation};
use engine::train::options::{EvalStrategy, Grouping, LossSpike, Metric, SaveStrategy, TrainOptions};
use engine::train::schedule::ScheduleKwargs;

fn parsed(extra: &[&str]) -> TrainArgs {
    let required = ["engine", "train", "--model", "m", "--dataset", "d", "--output-dir", "o"];
    match Cli::try_parse_from(required.iter().chain(extra)).unwrap().command {
        Command::Train(args) => *args,
        other => panic!("not a train command: {other:?}"),
    }
}

#[test]
fn what_no_flag_says_is_the_same_in_both() {
    let args = parsed(&[]);
    assert_eq!(args.options(), TrainOptions::default());
    assert_eq!(args.rows.example_options().unwrap(), ExampleOptions::default());
    assert_eq!(args.generation.options(), Generation::default());
    assert_eq!(args.model.device, DeviceName::default());
}

#[test]
fn every_flag_of_a_run_reaches_its_options() {
    let args = parsed(&[
        "--num-train-epochs=1.5",
        "--max-steps=7",
        "--gradient-accumulation-steps=4",
        "--learning-rate=0.25",
        "--lr-scheduler-type=cosine",
        "--lr-scheduler-kwargs=num_cycles=2",
        "--warmup-steps=0.5",
        "--adam-beta1=0.8",
        "--adam-beta2=0.75",
        "--adam-epsilon=0.5",
        "--weight-decay=0.125",
        "--max-grad-norm=2",
        "--shuffle=false",
        "--seed=9",
        "--eval-strategy=steps",
        "--eval-steps=11",
        "--save-strategy=steps",
        "--save-steps=13",
        "--metric-for-best-model=arguments",
        "--load-best-model-at-end",
        "--early-stopping-patience=4",
        "--logging-steps=6",
        "--logging-first-step",
        "--eval-on-start",
        "--eval-delay=2.5",
        "--loss-spike-z=4.5",
        "--label-smoothing-factor=0.375",
        "--neftune-noise-alpha=3.5",
        "--loss-spike=skip",
        "--cuda-graphs=false",
        "--gradient-checkpointing",
        "--max-tokens-per-batch=900",
        "--group-by-prefix",
        "--max-new-tokens=5",
        "--do-sample",
    ]);
    let expected = TrainOptions {
        num_train_epochs: 1.5,
        max_steps: Some(7),
        per_device_train_batch_size: 8,
        packing: None,
        max_tokens_per_batch: Some(900),
        group_by: Grouping::Prefix,
        gradient_accumulation_steps: 4,
        learning_rate: 0.25,
        lr_scheduler_type: engine::train::schedule::ScheduleKind::Cosine,
        lr_scheduler_kwargs: ScheduleKwargs { num_cycles: Some(2.0), ..ScheduleKwargs::default() },
        warmup_steps: 0.5,
        weight_decay: 0.125,
        betas: (0.8, 0.75),
        eps: 0.5,
        max_grad_norm: 2.0,
        label_smoothing_factor: 0.375,
        neftune_noise_alpha: 3.5,
        shuffle: false,
        seed: 9,
        eval_strategy: EvalStrategy::Steps(11),
        eval_on_start: true,
        eval_delay: 2.5,
        save_strategy: SaveStrategy::Steps(13),
        metric_for_best_model: Metric::Arguments,
        load_best_model_at_end: true,
        early_stopping_patience: Some(4),
        logging_steps: 6,
        logging_first_step: true,
        loss_spike_z: 4.5,
        loss_spike: LossSpike::Skip,
        cuda_graphs: false,
        gradient_checkpointing: true,
    };
    assert_eq!(args.options(), expected);
    assert_eq!(parsed(&["--packing", "--max-length=77"]).options().packing, Some(77));
    assert_eq!(parsed(&["--group-by-length"]).options().group_by, Grouping::Length);
    // Two ways to say how large a batch is: the last one counts.
    let rows = parsed(&["--max-tokens-per-batch=900", "--batch-size=3"]).options();
    assert_eq!((rows.max_tokens_per_batch, rows.per_device_train_batch_size), (None, 3));
    let tokens = parsed(&["--batch-size=3", "--max-tokens-per-batch=900"]).options();
    assert_eq!((tokens.max_tokens_per_batch, tokens.per_device_train_batch_size), (Some(900), 8));
    assert_eq!(parsed(&["--seed=9", "--data-seed=3"]).options().seed, 3);
    let generation = Generation { max_new_tokens: 5, do_sample: true, seed: 9, cuda_graphs: true };
    assert_eq!(args.generation.options(), generation);
    assert_eq!(args.generation(), Generation { cuda_graphs: false, ..generation });
}
