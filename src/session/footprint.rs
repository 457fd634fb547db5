//! The memory that a run will take, before it starts.

use std::collections::BTreeMap;

use super::Checkpoint;
use super::devices::ComputeDevice;
use crate::batch::Example;
use crate::batch::growth::Growth;
use crate::batch::tree::TokenTree;
use crate::device::counted;
use crate::err;
use crate::error::{Error, Kind, Result};
use crate::ops::adamw::AdamW;
use crate::train::options::TrainOptions;
use crate::train::order::{Order, Window};

/// What the steps of a run take of its device, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// All of it, with what a step leaves unused for the next one.
    pub bytes: usize,
    /// The most that tensors hold at once, by what they are for.
    pub by_purpose: BTreeMap<String, usize>,
    /// What is left on the device; None where nobody tells.
    pub free: Option<u64>,
    /// Whether layers are computed again in the backward.
    pub gradient_checkpointing: bool,
}

impl Footprint {
    /// Counts the memory of a run's largest batch in its first epoch, by running a step of it on a device that only counts.
    ///
    /// # Errors
    /// The options contradict themselves.
    pub fn of(
        checkpoint: &Checkpoint,
        on: &ComputeDevice,
        train: &[Example],
        options: &TrainOptions,
    ) -> Result<Footprint> {
        let device = counted::device(&on.device);
        let mut model = checkpoint.to_train(checkpoint.room_to_train(&device)?, on.dtype)?;
        let mut step = options.step(&model)?;
        let window = largest(Order::new(options, train)?.windows(train, 0), train);
        // The second step of a size is captured, where the device does that, and keeps its memory.
        for number in 1..=2 {
            let tree =
                |batch: &Vec<usize>| TokenTree::from_examples(&batch.iter().map(|&i| &train[i]).collect::<Vec<_>>());
            let hyper = AdamW { learning_rate: 0.0, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, step: number };
            step.run(&mut model, window.iter().map(tree).collect(), &hyper)?;
        }
        let by_purpose = device.peak_by_purpose();
        Ok(Footprint {
            bytes: device.peak_held_bytes(),
            by_purpose,
            free: on.device.driver().free_bytes(),
            gradient_checkpointing: options.gradient_checkpointing,
        })
    }

    /// An error when there is less memory than that.
    ///
    /// # Errors
    /// Of kind [`Kind::OutOfMemory`].
    pub fn require(&self) -> Result<()> {
        match self.free {
            Some(free) if self.bytes as u64 > free => Err(self.short(free)),
            _ => Ok(()),
        }
    }

    fn short(&self, free: u64) -> Error {
        let gigabytes = |bytes: f64| format!("{:.2} GB", bytes / 1e9);
        let fixed: usize = ["weights", "gradients", "optimizer"].iter().map(|name| self.by_purpose[*name]).sum();
        let error = err!(
            "the steps of this run need {} of memory; {} are free",
            gigabytes(self.bytes as f64),
            gigabytes(free as f64)
        );
        let hint = if fixed as u64 > free {
            format!(
                "weights, gradients and AdamW's moments alone take {}: close other programs, or take a machine with more",
                gigabytes(fixed as f64)
            )
        } else {
            let first = if self.gradient_checkpointing { "" } else { "give `--gradient-checkpointing`, or " };
            format!(
                "{first}use a smaller `--per-device-train-batch-size` (and more `--gradient-accumulation-steps`) or a \
                 smaller `--max-length`, or bound a batch by `--max-tokens-per-batch`"
            )
        };
        error.of_kind(Kind::OutOfMemory).hint(hint)
    }
}

/// The window with the largest tree.
fn largest(windows: Vec<Window>, train: &[Example]) -> Window {
    let tokens = |batch: &Vec<usize>| Growth::of(batch.iter().map(|&i| &train[i].ids[..])).len();
    let most = |window: &Window| window.iter().map(tokens).max();
    windows.into_iter().max_by_key(most).unwrap_or_default()
}
