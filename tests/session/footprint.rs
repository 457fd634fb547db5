//! The memory that a run will take, counted before it starts.

use std::path::Path;

use engine::error::Kind;
use engine::model::gemma3::lora::Lora;
use engine::session::{Checkpoint, ComputeDevice, DeviceName, Footprint, Run, devices};
use engine::train::options::TrainOptions;

use crate::rows;

pub fn quickstart() -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/model");
    Checkpoint::open(folder.to_str().unwrap()).unwrap()
}

/// What steps of all rows at once take on a fresh device of this kind, truly.
fn taken(open: impl Fn() -> ComputeDevice, options: &TrainOptions) -> (usize, Vec<(String, usize)>) {
    let on = open();
    let model = quickstart().load(&on).unwrap();
    let mut run = Run::prepare(model, rows(), Vec::new(), options.clone()).unwrap();
    run.run_to_end().unwrap();
    (on.device.peak_held_bytes(), on.device.peak_by_purpose().into_iter().collect())
}

#[test]
fn the_memory_of_steps_is_known_before_them_to_the_byte() {
    let mut places = vec![(DeviceName::Cpu, None), (DeviceName::Cpu, Some(engine::device::DType::Bf16))];
    if cfg!(engine_emulated) {
        places.push((DeviceName::Emulated, None));
    }
    for (name, dtype) in places {
        for (accumulated, gradient_checkpointing) in [(1, false), (2, false), (1, true)] {
            let options = TrainOptions {
                gradient_checkpointing,
                per_device_train_batch_size: 7 / accumulated,
                gradient_accumulation_steps: accumulated,
                shuffle: false,
                max_steps: Some(if name == DeviceName::Emulated { 2 } else { 3 }),
                ..TrainOptions::default()
            };
            let open = || devices::open(name, dtype).unwrap();
            let footprint = Footprint::of(&quickstart(), &open(), &rows(), &options).unwrap();
            let (held, by_purpose) = taken(open, &options);
            assert_eq!(footprint.by_purpose.into_iter().collect::<Vec<_>>(), by_purpose, "{name} {dtype:?}");
            // Batches of other sizes leave memory of theirs behind.
            let exact = accumulated == 1;
            assert!(footprint.bytes == held || !exact, "{name} {dtype:?}: {} and {held}", footprint.bytes);
            assert!(footprint.bytes <= held && footprint.bytes as f64 > 0.95 * held as f64, "{name} {dtype:?}");
        }
    }
}

#[test]
fn the_memory_of_lora_is_known_too_and_has_no_gradient_of_what_is_frozen() {
    for dtype in [engine::device::DType::F32, engine::device::DType::Bf16] {
        let options = TrainOptions {
            per_device_train_batch_size: 7,
            shuffle: false,
            max_steps: Some(3),
            ..TrainOptions::default()
        };
        let checkpoint = quickstart().with_lora(Lora::default(), "quickstart", 1).unwrap();
        let on = devices::open(DeviceName::Cpu, Some(dtype)).unwrap();
        let footprint = Footprint::of(&checkpoint, &on, &rows(), &options).unwrap();
        let whole = Footprint::of(&quickstart(), &on, &rows(), &options).unwrap();
        let model = checkpoint.load_to_train(&on).unwrap();
        let mut run = Run::prepare(model, rows(), Vec::new(), options).unwrap();
        run.run_to_end().unwrap();
        assert_eq!(footprint.by_purpose, on.device.peak_by_purpose(), "{dtype:?}");
        assert_eq!(footprint.bytes, on.device.peak_held_bytes(), "{dtype:?}");
        for purpose in ["gradients", "optimizer"] {
            assert!(footprint.by_purpose[purpose] * 40 < whole.by_purpose[purpose], "{purpose} {footprint:?}");
        }
    }
}

#[test]
fn a_run_that_does_not_fit_is_refused_with_what_to_change() {
    let on = devices::open(DeviceName::Cpu, None).unwrap();
    let footprint = Footprint::of(&quickstart(), &on, &rows(), &TrainOptions::default()).unwrap();
    assert!(footprint.free.is_some() && footprint.require().is_ok());
    let with = |free| Footprint { free: Some(free), ..footprint.clone() }.require().unwrap_err();
    let short = with(footprint.bytes as u64 - 1);
    assert_eq!(short.kind(), Kind::OutOfMemory);
    assert!(short.report().contains("give `--gradient-checkpointing`, or use a smaller `--per-"), "{}", short.report());
    assert!(with(1 << 20).report().contains("AdamW's moments alone take 0.02 GB"), "{}", with(1 << 20).report());
    assert!(Footprint { free: None, ..footprint }.require().is_ok());
    let options = TrainOptions { gradient_checkpointing: true, ..TrainOptions::default() };
    let checkpointed = Footprint::of(&quickstart(), &on, &rows(), &options).unwrap();
    let short = Footprint { free: Some(checkpointed.bytes as u64 - 1), ..checkpointed }.require().unwrap_err().report();
    assert!(!short.contains("`--gradient-checkpointing`") && short.contains("use a smaller"), "{short}");
}
