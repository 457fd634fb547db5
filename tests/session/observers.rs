//! Who watches a run cannot harm it.

use std::cell::RefCell;
use std::rc::Rc;

use engine::err;
use engine::error::{Error, Result};
use engine::session::Observer;
use engine::train::metrics::Record;
use engine::train::options::TrainOptions;

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
