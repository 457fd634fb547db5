//! geglu: y = gelu(gate) * up, with gelu's tanh form.

use engine::autograd::Tape;
use engine::ops::geglu::geglu;

use crate::checks;
use crate::checks::check_f64_is_refused;
use crate::lists::geglu::cases;
use crate::lists::tensor;
use crate::places::places;

checks!(cases());

#[test]
fn kernels_refuse_f64() {
    check_f64_is_refused(&cases()[2]);
}

#[test]
fn gates_far_from_zero_are_passed_or_blocked_and_never_nan() {
    // Numbers that bf16 holds.
    let gates = [-9984.0, -100.0, -30.0, 30.0, 100.0, 9984.0];
    let x: Vec<f64> = gates.into_iter().chain([2.0; 6]).collect();
    for place in places() {
        let device = place.device();
        let mut tape = Tape::inference(&device);
        let x = tape.var(tensor(&device, &[1, 12], place.dtype, &x));
        let y = geglu(&mut tape, &x).unwrap().value.to_f64();
        assert_eq!(y, [0.0, 0.0, 0.0, 60.0, 200.0, 19968.0], "{place:?}");
    }
}
