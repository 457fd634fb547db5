//! Who watches a run cannot harm it.

use std::cell::RefCell;
use std::rc::Rc;

use engine::err;
use engine::error::{Error, Result};
use engine::session::Observer;
use engine::train::metrics::Record;
use engine::train::options::{EvalStrategy, TrainOptions};

use crate::{Log, run};

/// Fails from its third record on, or when the run ends.
struct Failing {
    left: usize,
    at_the_end: bool,
}

impl Observer for Failing {
    fn record(&mut self, _: &Record) -> Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| err!("the disk is full"))?;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if self.at_the_end { Err(err!("the end is lost")) } else { Ok(()) }
    }
}

/// Keeps the warnings, and whether the run has ended.
#[derive(Clone, Default)]
struct Warned(Rc<RefCell<Vec<String>>>);

impl Observer for Warned {
    fn record(&mut self, _: &Record) -> Result<()> {
        Ok(())
    }

    fn warning(&mut self, warning: &Error) {
        self.0.borrow_mut().push(warning.to_string());
    }

    fn end(&mut self) -> Result<()> {
        self.0.borrow_mut().push("end".into());
        Ok(())
    }
}

#[test]
fn one_that_fails_is_told_no_more_and_the_others_hear_of_it_once() {
    let options = TrainOptions { max_steps: Some(6), ..TrainOptions::default() };
    let (before, after, warned) = (Log::default(), Log::default(), Warned::default());
    let mut run = run(&options);
    run.observe(before.clone());
    run.observe(Failing { left: 2, at_the_end: false });
    run.observe(Failing { left: usize::MAX, at_the_end: true });
    run.observe(after.clone());
    run.observe(warned.clone());
    run.run_to_end().unwrap();
    let failures: Vec<String> = run.finish().failures.iter().map(Error::to_string).collect();
    assert_eq!(failures, ["the disk is full", "the end is lost"]);
    assert_eq!(*warned.0.borrow(), ["the disk is full", "end", "the end is lost"]);
    assert_eq!(before.records(), after.records());
    // Six steps in six epochs of one batch, six evaluations, the summary.
    assert_eq!(before.records().len(), 13);
}

/// What a run over seven rows in batches of two tells, as `train STEP` and `eval STEP`.
fn told(options: TrainOptions) -> Vec<String> {
    let log = Log::default();
    let mut run = run(&TrainOptions { per_device_train_batch_size: 2, num_train_epochs: 3.0, ..options });
    run.observe(log.clone());
    run.run_to_end().unwrap();
    let records = log.0.borrow();
    let name = |record: &Record| match record {
        Record::Train(record) => Some(format!("train {}", record.step)),
        Record::Eval(record) => Some(format!("eval {}", record.step)),
        _ => None,
    };
    records.iter().filter_map(name).collect()
}

#[test]
fn evaluations_begin_and_records_are_written_when_the_options_say() {
    let quiet = || TrainOptions { logging_steps: 12, ..TrainOptions::default() };
    assert_eq!(told(quiet()), ["eval 4", "eval 8", "train 12", "eval 12"]);
    let options = TrainOptions { eval_on_start: true, logging_first_step: true, ..quiet() };
    assert_eq!(told(options), ["eval 0", "train 1", "eval 4", "eval 8", "train 12", "eval 12"]);
    assert_eq!(told(TrainOptions { eval_delay: 1.5, ..quiet() }), ["eval 8", "train 12", "eval 12"]);
    let options = TrainOptions { eval_strategy: EvalStrategy::Steps(3), eval_delay: 6.0, ..quiet() };
    assert_eq!(told(options), ["eval 6", "eval 9", "train 12", "eval 12"]);
    assert_eq!(told(TrainOptions { eval_delay: 99.0, ..quiet() }), ["train 12", "eval 12"]);
}
