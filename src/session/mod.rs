//! What a job is, without a terminal: the command line, a test or another program calls the same.
//!
//! | | |
//! |---|---|
//! | [`devices`] | opens a device by its name |
//! | [`Checkpoint`] | a model folder: its tokenizer and configs, its weights, saving |
//! | [`Examples`] | rows as the loss sees them |
//! | [`Run`] | a training run: prepare, step, finish; its [`State`] can be taken out and put back |
//! | [`Observer`] | who is told what a run measures: `metrics.jsonl`, the plot, the terminal |
//! | [`score`](fn@score) | generates the answers to prompts and judges them |
//!
//! Nothing here prints. What a user should be told comes back as a value: warnings beside examples, the reason why a GPU
//! was not taken, records to observers, failures as errors with a [kind](crate::error::Kind).

pub mod checkpoint;
pub mod devices;
pub mod examples;
pub mod observer;
pub mod run;
pub mod score;
pub mod state;

pub use checkpoint::{Checkpoint, Generation};
pub use devices::{ComputeDevice, DeviceName};
pub use examples::{ExampleOptions, Examples};
pub use observer::{LossPlot, Observer};
pub use run::{Outcome, Run, Trained};
pub use score::score;
pub use state::{Position, State};
