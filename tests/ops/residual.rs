//! residual_rmsnorm: sum = h + rmsnorm(x), and the next norm of that.

use crate::checks;
use crate::checks::check_f64_is_refused;
use crate::lists::residual::cases;

checks!(cases(), cases(), check_places_of_two);

#[test]
fn kernels_refuse_f64() {
    check_f64_is_refused(&cases()[1]);
}
