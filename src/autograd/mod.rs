//! The manual autograd tape, and the parameters whose gradients it accumulates.

mod gradients;
mod masters;
mod matrices;
mod params;
mod round_blocks;
mod squares;
mod tape;
mod vectors;

pub use gradients::Gradients;
pub use masters::WeightsToUpdate;
pub use params::{Param, ParamHandle, ParamSpec, Params, Span};
pub use round_blocks::{BlockFormat, RoundBlocks};
pub use tape::{Arrival, Backward, Recompute, Rounding, Tape, Var};
pub use vectors::{Parts, rows_of_part};
