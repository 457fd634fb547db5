//! Runs with dropout, and with weights that are rounded in the forward: what is trained, saved and scored, and that they go on.

use engine::autograd::BlockFormat;
use engine::batch::Example;
use engine::device::DType;
use engine::error::Kind;
use engine::io::gguf_type::GgufType;
use engine::model::gemma3::Gemma3;
use engine::model::gemma3::lora::Lora;
use engine::model::gemma3::table::parameters;
use engine::session::{Checkpoint, ComputeDevice, DeviceName, Footprint, Identity, Run, State, devices};
use engine::train::evaluate::evaluate;
use engine::train::metrics::Record;
use engine::train::options::TrainOptions;

use crate::footprint::quickstart;
use crate::{Log, rows};

/// The quickstart's model, to be trained in this way.
type Way = fn(Checkpoint) -> Checkpoint;

const ROUNDED: Way = |checkpoint| checkpoint.with_qat(GgufType::Q4_0).unwrap();
const DROPPED: Way = |checkpoint| {
    let lora = Lora { dropout: 0.25, ..Lora::default() };
    checkpoint.with_lora(lora, "quickstart", 1).unwrap()
};

fn on(dtype: DType) -> ComputeDevice {
    devices::open(DeviceName::Cpu, Some(dtype)).unwrap()
}

fn options() -> TrainOptions {
    TrainOptions { learning_rate: 1e-2, per_device_train_batch_size: 4, max_steps: Some(5), ..TrainOptions::default() }
}

fn evaluation_rows() -> Vec<Example> {
    rows().split_off(4)
}

fn prepared(way: Way, dtype: DType) -> Run {
    let model = way(quickstart()).load_to_train(&on(dtype)).unwrap();
    Run::prepare(model, rows(), evaluation_rows(), options()).unwrap()
}

/// Runs to the end: the last state, the records and the model.
fn ended(mut run: Run) -> (State, Vec<Record>, Gemma3) {
    let log = Log::default();
    run.observe(log.clone());
    run.run_to_end().unwrap();
    let mut state = run.state().unwrap();
    (state.progress.seconds, state.progress.unlogged.seconds) = (0.0, 0.0);
    (state, log.records(), run.finish().model)
}

fn losses(records: &[Record]) -> Vec<f64> {
    let loss = |record: &Record| match record {
        Record::Train(record) => Some(record.loss),
        Record::Eval(record) => Some(record.eval_loss),
        _ => None,
    };
    records.iter().filter_map(loss).collect()
}

#[test]
fn a_run_that_was_stopped_ends_equal_to_the_bit() {
    for (way, dtype) in [ROUNDED, DROPPED].into_iter().flat_map(|way| [(way, DType::F32), (way, DType::Bf16)]) {
        let (expected, records, _) = ended(prepared(way, dtype));
        let again = ended(prepared(way, dtype));
        assert!(again.0 == expected && again.1 == records, "run twice in {dtype:?}");
        for steps in [1, 3] {
            let mut first = prepared(way, dtype);
            (0..steps).for_each(|_| drop(first.step().unwrap()));
            let state = first.state().unwrap();
            drop(first);
            let model = way(quickstart()).load_to_train(&on(dtype)).unwrap();
            let second = Run::from_state(state, model, rows(), evaluation_rows(), options()).unwrap();
            let (last, rest, _) = ended(second);
            assert!(last == expected, "stopped after {steps} steps in {dtype:?}");
            assert!(losses(&records).ends_with(&losses(&rest)), "{records:?} {rest:?}");
        }
    }
}

#[test]
fn a_run_measures_what_the_export_of_its_weights_would() {
    for dtype in [DType::F32, DType::Bf16] {
        let (state, records, model) = ended(prepared(ROUNDED, dtype));
        let checkpoint = quickstart();
        let measured = records.iter().rev().find_map(|record| match record {
            Record::Eval(record) => Some(record.eval_loss),
            _ => None,
        });
        // Masters as they are saved, rounded as the file would hold them.
        let mut flat = state.weights.clone();
        GgufType::Q4_0.round(&parameters(&checkpoint.config), &mut flat).unwrap();
        assert!(flat != state.weights);
        let device = on(dtype).device;
        let exported = engine::device::Tensor::from_slice(&device, &[flat.len()], &flat);
        let exported = Gemma3::new(checkpoint.config.clone(), exported).unwrap().computed_in(dtype).unwrap();
        let loss = |model: &Gemma3| {
            let sums = evaluate(model, &evaluation_rows(), 0.0, || Ok(())).unwrap();
            sums.loss / sums.scored
        };
        assert_eq!(measured, Some(loss(&exported)), "{dtype:?}");
        assert_eq!(measured, Some(loss(&model)), "{dtype:?}: the model that is left");
        assert!(
            model.params.masters().unwrap().download::<f32>().unwrap() == state.weights,
            "what is saved are the masters"
        );
    }
}

#[test]
fn dropout_changes_training_and_no_evaluation() {
    let start = TrainOptions { eval_on_start: true, max_steps: Some(1), ..options() };
    let of = |dropout: f64| {
        let lora = Lora { dropout, ..Lora::default() };
        let checkpoint = quickstart().with_lora(lora, "quickstart", 1).unwrap();
        let model = checkpoint.load_to_train(&on(DType::F32)).unwrap();
        let (state, records, _) = ended(Run::prepare(model, rows(), evaluation_rows(), start.clone()).unwrap());
        (state.weights, losses(&records))
    };
    let ((plain, losses), (dropped, other)) = (of(0.0), of(0.5));
    assert!(plain != dropped);
    // The evaluation before the first step, and its loss: B is zero.
    assert_eq!(losses[..2], other[..2]);
}

#[test]
fn the_memory_of_these_runs_is_known_too() {
    for (way, dtype) in [ROUNDED, DROPPED].into_iter().flat_map(|way| [(way, DType::F32), (way, DType::Bf16)]) {
        let options = TrainOptions { per_device_train_batch_size: 7, shuffle: false, max_steps: Some(3), ..options() };
        let on = on(dtype);
        let checkpoint = way(quickstart());
        let footprint = Footprint::of(&checkpoint, &on, &rows(), &options).unwrap();
        let model = checkpoint.load_to_train(&on).unwrap();
        let mut run = Run::prepare(model, rows(), Vec::new(), options).unwrap();
        run.run_to_end().unwrap();
        assert_eq!(footprint.by_purpose, on.device.peak_by_purpose(), "{dtype:?}");
        assert_eq!(footprint.bytes, on.device.peak_held_bytes(), "{dtype:?}");
    }
}

#[test]
fn a_run_with_other_rounding_is_another_run() {
    let identity = |checkpoint: Checkpoint| {
        let model = checkpoint.load_to_train(&on(DType::F32)).unwrap();
        assert_eq!(model.params.rounding().map(|rounding| rounding.coarsest()), rounding_of(&checkpoint));
        Identity::new(&model, &rows(), &[], &options()).unwrap()
    };
    let [none, q4_0, q8_0] = [
        identity(quickstart()),
        identity(quickstart().with_qat(GgufType::Q4_0).unwrap()),
        identity(quickstart().with_qat(GgufType::Q8_0).unwrap()),
    ];
    assert!(q4_0.check(&q4_0).unwrap().is_none());
    let said = |then: &Identity, now: &Identity| then.check(now).unwrap_err().to_string();
    assert!(said(&none, &q4_0).contains("`--qat` was unset, now it is q4_0"), "{}", said(&none, &q4_0));
    assert!(said(&q4_0, &q8_0).contains("`--qat` was q4_0, now it is q8_0"), "{}", said(&q4_0, &q8_0));
}

fn rounding_of(checkpoint: &Checkpoint) -> Option<BlockFormat> {
    let formats = checkpoint.qat?.block_formats(&parameters(&checkpoint.config)).unwrap();
    formats.into_iter().max()
}

#[test]
fn an_adapter_and_types_without_blocks_are_refused() {
    let refused = |checkpoint: Checkpoint, kind| checkpoint.with_qat(kind).err().expect("it is refused");
    let adapter = refused(DROPPED(quickstart()), GgufType::Q4_0);
    assert!(adapter.kind() == Kind::Usage && adapter.report().contains("`engine merge`"), "{}", adapter.report());
    let plain = refused(quickstart(), GgufType::Bf16);
    assert!(plain.kind() == Kind::Usage && plain.to_string().contains("not to bf16"), "{plain}");
}
