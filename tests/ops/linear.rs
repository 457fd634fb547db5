//! linear: y = x weight^T.

use crate::checks;
use crate::lists::linear::{cases, small};

checks!(small(), cases());
