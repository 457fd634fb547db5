//! residual_rmsnorm: sum = h + rmsnorm(x), and the next norm of that.

use engine::autograd::Tape;
use engine::ops::residual::{NormPair, residual_rmsnorm};
use engine::ops::rmsnorm::rmsnorm;

use crate::checks;
use crate::checks::check_f64_is_refused;
use crate::lists::residual::cases;
use crate::lists::{params, random, rng, tensor};
use crate::places::places;

checks!(cases(), cases(), check_places_of_two);

#[test]
fn kernels_refuse_f64() {
    check_f64_is_refused(&cases()[1]);
}

/// What reads the sum later, and norms it once more, sees what was rounded.
#[test]
fn the_second_norm_is_that_of_the_sum_as_it_is_stored() {
    for (place, [n, d]) in places().into_iter().flat_map(|place| [[9, 24], [9, 37]].map(|shape| (place, shape))) {
        let (device, dtype, mut rng) = (place.device(), place.dtype, rng(3));
        let weights = [(); 2].map(|()| random(dtype, &mut rng, d, 0.3));
        let (_table, weights) = params(&device, &[vec![d], vec![d]], dtype, &weights);
        let norms = NormPair { weight: weights[0].clone(), next_weight: weights[1].clone(), eps: 1e-6 };
        let mut tape = Tape::inference(&device);
        let [h, x] = [(); 2].map(|()| tape.var(tensor(&device, &[n, d], dtype, &random(dtype, &mut rng, n * d, 1.0))));
        let (sum, y) = residual_rmsnorm(&mut tape, &h, &x, &norms).unwrap();
        let of_stored = rmsnorm(&mut tape, &sum, &norms.next_weight, norms.eps).unwrap();
        assert_eq!(y.value.to_f64(), of_stored.value.to_f64(), "{place:?}, {n} x {d}");
    }
}
