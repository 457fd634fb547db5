//! What is kept of a run whose step fails: all of it, where the failure leaves it as it was.

use std::path::Path;
use std::rc::Rc;

use engine::device::DType;
use engine::err;
use engine::error::{Error, Kind};
use engine::io::folder::{Existing, OutputFolder};
use engine::io::safetensors::SaveDtype;
use engine::session::{Checkpoint, ComputeDevice, Identity, Outcome, Run, SavedRun, Saves};
use engine::train::options::{EvalStrategy, SaveStrategy, TrainOptions};

use crate::rows;

/// A run of two steps in `folder` whose evaluation after the first one fails.
fn run(folder: &Path) -> (Run, Saves) {
    let checkpoint = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart/model")).unwrap();
    let device = ComputeDevice { device: engine::host::device(), dtype: DType::F32, fallback: None };
    let model = checkpoint.load(&device).unwrap();
    let options = TrainOptions {
        per_device_train_batch_size: 1,
        max_steps: Some(2),
        eval_strategy: EvalStrategy::Steps(1),
        save_strategy: SaveStrategy::No,
        ..TrainOptions::default()
    };
    let row = || rows()[..1].to_vec();
    let identity = Identity::new(&model, &row(), &row(), &options).unwrap();
    let mut run = Run::prepare(model, row(), row(), options).unwrap();
    run.judge_with(|_| Err(err!("no memory").of_kind(Kind::OutOfMemory).hint("buy some")));
    let folder = OutputFolder::claim(folder, Existing::Refuse).unwrap();
    let checkpoint = Rc::new(checkpoint);
    (run, Saves { checkpoint, folder, identity, score_before: None, dtype: SaveDtype::F32, limit: None })
}

#[test]
fn an_evaluation_that_fails_loses_no_update() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run");
    let (mut run, saves) = run(&output);
    assert!(matches!(run.step().unwrap(), Outcome::Updated));
    let failed = run.step().unwrap_err();
    let error = saves.rescue(&mut run, failed, 0);
    assert_eq!((error.kind(), error.advice()), (Kind::OutOfMemory, Some("buy some")));
    let place = output.join("checkpoint-1");
    assert!(error.to_string().contains(&format!("as of step 1 is saved in `{}`", place.display())), "{error:?}");
    assert!(error.report().contains("caused by: no memory"), "{error:?}");
    let saved = SavedRun::open(&place).unwrap();
    // The evaluation is still due in the run that goes on.
    let (mut again, _) = self::run(&folder.path().join("again"));
    saved.restore(&mut again).unwrap();
    assert!(again.is_evaluation_due() && again.position() == run.position());
    let weights = |run: &mut Run| run.state().unwrap().weights;
    assert!(weights(&mut again) == weights(&mut run));
}

#[test]
fn nothing_is_saved_where_nothing_is_lost_or_the_run_is_not_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run");
    let (mut run, saves) = run(&output);
    run.step().unwrap();
    let failed = run.step().unwrap_err();
    assert_eq!(saves.rescue(&mut run, failed, 1).to_string(), "no memory", "step 1 is saved");
    let (mut other, saves) = self::run(&folder.path().join("other"));
    let failed = |kind: Kind| Error::new("the device is lost").of_kind(kind);
    assert_eq!(saves.rescue(&mut other, failed(Kind::OutOfMemory), 0).to_string(), "the device is lost");
    assert_eq!(saves.rescue(&mut other, failed(Kind::Other), 9).to_string(), "the device is lost");
    assert!(saves.folder.checkpoints().unwrap().is_empty());
}
