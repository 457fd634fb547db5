//! residual_rmsnorm: sum = h + rmsnorm(x), and the next norm of that.

use crate::checks::{check_f64_is_refused, check_formula, check_gradients, check_places_of_two, check_precision};
use crate::lists::residual::cases;

#[test]
fn the_gradient_equals_central_differences() {
    check_gradients(&cases());
}

#[test]
fn the_values_equal_the_formula() {
    check_formula(&cases());
}

#[test]
fn f32_on_the_host_is_as_precise_as_f32_can_be() {
    check_precision(&cases());
}

#[test]
fn every_device_and_type_is_as_precise_as_plain_rounding() {
    check_places_of_two(&cases());
}

#[test]
fn kernels_refuse_f64() {
    check_f64_is_refused(&cases()[1]);
}
