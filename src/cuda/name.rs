//! How a GPU is named: `cuda`, or `cuda:1`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A GPU as a user names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// `cuda`: the first one that can be used.
    First,
    /// `cuda:N`: this one and no other, counted from 0 as `CUDA_VISIBLE_DEVICES` leaves them.
    Index(usize),
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let index = match name.strip_prefix("cuda") {
            Some("") => return Ok(Self::First),
            Some(rest) => rest.strip_prefix(':').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit())),
            None => None,
        };
        let index = index.and_then(|digits| digits.parse().ok()).map(Self::Index);
        index.ok_or_else(|| {
            Error::usage(format!("`{name}` names no GPU"))
                .hint("`cuda` is the first GPU that can be used, `cuda:0`, `cuda:1` and so on a certain one")
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => write!(f, "cuda"),
            Self::Index(index) => write!(f, "cuda:{index}"),
        }
    }
}
