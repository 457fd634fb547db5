//! The session layer: runs that are stopped and go on, observers, defaults, kinds of errors, and that it says nothing.

#[path = "../model/counting.rs"]
#[allow(dead_code)]
mod counting;
#[path = "../model/tiny.rs"]
#[allow(dead_code)]
mod tiny;

mod ahead;
mod choices;
mod conversation;
mod defaults;
mod devices;
mod footprint;
mod kinds;
mod observers;
mod order;
mod parity;
mod quiet;
mod random_and_rounded;
mod regularization;
mod rescue;
mod resume;
mod spikes;
mod token_cache;

use std::cell::RefCell;
use std::rc::Rc;

use engine::batch::Example;
use engine::error::Result;
use engine::session::{Observer, Run};
use engine::train::metrics::Record;
use engine::train::options::TrainOptions;

use crate::tiny::{config, example, model, weights};

/// Seven rows of several lengths that share prefixes.
fn rows() -> Vec<Example> {
    let row = |r: u32| (0..6 + r).map(|t| if t < 3 { 2 + t } else { (r * 5 + t * t) % 31 }).collect::<Vec<u32>>();
    (0..7).map(|r| example(&row(r), 2)).collect()
}

fn run(options: &TrainOptions) -> Run {
    let model = model::<f32>(&weights(&config(), 3));
    Run::prepare(model, rows(), rows().split_off(4), options.clone()).unwrap()
}

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<Record>>>);

impl Log {
    /// The records without the clock's and the memory's part.
    fn records(&self) -> Vec<Record> {
        let mut records = self.0.borrow().clone();
        for record in &mut records {
            match record {
                Record::Train(train) => (train.step_seconds, train.tokens_per_second) = (0.0, 0.0),
                Record::Eval(eval) => eval.eval_seconds = 0.0,
                Record::Score(_) => {}
                Record::Summary(summary) => (summary.train_runtime, summary.peak_memory_bytes) = (0.0, None),
            }
        }
        records
    }
}

impl Observer for Log {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.0.borrow_mut().push(record.clone());
        Ok(())
    }
}
