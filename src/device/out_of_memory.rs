//! A device that has no room for what is asked: a cause that can be told from all others.

use std::fmt;

use crate::error::{Context, Error, Kind};

/// The cause of an error that a smaller job, or giving back what is free, may mend. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// None: nobody knows, as for a graph.
    pub wanted: Option<usize>,
    /// What the device had left when it was asked; other programs hold some of the rest.
    pub free: usize,
    pub total: usize,
}

impl OutOfMemory {
    /// An error with this cause, for whatever was being done.
    pub fn while_doing(self, doing: &str) -> Error {
        let error = match Err::<(), _>(self).context(|| doing) {
            Err(error) => error,
            Ok(()) => unreachable!("it was made from an error"),
        };
        error.of_kind(Kind::OutOfMemory).hint(
            "give `--gradient-checkpointing`, or use a smaller `--per-device-train-batch-size` (and more \
             `--gradient-accumulation-steps`) or a smaller `--max-length`; `nvidia-smi` shows what other programs hold",
        )
    }

    /// This cause of `error`, if it has it, however deep.
    pub fn of(error: &Error) -> Option<Self> {
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref() {
                return Some(*found);
            }
            cause = error.source();
        }
        None
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gigabytes = |bytes: usize| format!("{:.2} GB", bytes as f64 / 1e9);
        let wanted = self.wanted.map(|bytes| format!("{} more are needed, ", gigabytes(bytes)));
        let wanted = wanted.unwrap_or_default();
        write!(f, "out of memory: {wanted}{} of {} are free", gigabytes(self.free), gigabytes(self.total))
    }
}

impl std::error::Error for OutOfMemory {}
