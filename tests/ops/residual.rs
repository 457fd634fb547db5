//! residual_rmsnorm: y = h + rmsnorm(x).

use crate::checks;
use crate::lists::residual::cases;

checks!(cases());
