//! What a job is, without a terminal: the command line, a test or another program calls the same.
//!
//! | | |
//! |---|---|
//! | [`devices`] | opens a device by its name |
//! | [`Checkpoint`] | a model folder: its tokenizer and configs, its weights, saving |
//! | [`Examples`] | rows as the loss sees them; [`TokenCache`]: those of large datasets, kept for the next start |
//! | [`check`] | what would make a run on rows worthless, before it starts |
//! | [`Footprint`] | the memory that a run will take |
//! | [`Run`] | a training run: prepare, step, finish; its [`State`] can be taken out and put back |
//! | [`Saves`], [`SavedRun`] | checkpoints of a run on disk, and the final model; [`Identity`]: what a run that goes on must be of |
//! | [`Observer`] | who is told what a run measures: `metrics.jsonl`, the plot, the terminal |
//! | `publish`, `card` | a model folder becomes a model of the hub, with a model card |
//! | [`parity`] | whether another runtime's template makes the same tokens |
//! | [`conversation`] | what was said to a model and what it is given next |
//! | [`score`](fn@score) | generates the answers to prompts and judges them |
//!
//! Nothing here prints. What a user should be told comes back as a value: warnings beside examples, the reason why a GPU
//! was not taken, records to observers, failures as errors with a [kind](crate::error::Kind).

pub mod about;
mod adapted;
pub mod adapter_source;
#[cfg(feature = "hub")]
pub mod card;
pub mod check;
pub mod checkpoint;
pub mod conversation;
pub mod devices;
pub mod examples;
pub mod footprint;
pub mod identity;
pub mod observer;
pub mod page;
pub mod parity;
#[cfg(feature = "hub")]
pub mod publish;
pub mod restore;
pub mod run;
pub mod saves;
pub mod score;
pub mod selection;
pub mod state;
pub mod token_cache;
mod weights;

pub use about::About;
pub use adapter_source::AdapterSource;
pub use checkpoint::{Checkpoint, Generation};
pub use devices::{ComputeDevice, DeviceName};
pub use examples::{ExampleOptions, Examples};
pub use footprint::Footprint;
pub use identity::Identity;
pub use observer::{LossPlot, Observer};
pub use page::write_page;
pub use restore::Array;
pub use run::{Outcome, Run, Trained};
pub use saves::{SavedRun, Saves};
pub use score::{Prompts, score};
pub use state::{Position, Progress, State};
pub use token_cache::TokenCache;
