//! residual_rmsnorm: y = h + rmsnorm(x).

use crate::checks;
use crate::checks::check_f64_is_refused;
use crate::lists::residual::cases;

checks!(cases());

#[test]
fn kernels_refuse_f64() {
    check_f64_is_refused(&cases()[1]);
}
