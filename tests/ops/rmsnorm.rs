//! rmsnorm: y = x * rstd * (1 + weight), rstd = 1 / sqrt(mean(x^2) + eps).

use engine::autograd::Tape;
use engine::device::bindings::ENGINE_NORM_CHUNK;
use engine::device::driver::engine_dtype;
use engine::launch;
use engine::ops::rmsnorm::rmsnorm;

use crate::arrays::{array, unwritten};
use crate::checks;
use crate::checks::check_f64_is_refused;
use crate::lists::rmsnorm::cases;
use crate::lists::{params, random, rng, tensor};
use crate::places::{Place, places};

checks!(cases());

#[test]
fn kernels_refuse_f64() {
    check_f64_is_refused(&cases()[2]);
}

/// What has arrived at x from elsewhere when the backward comes.
#[derive(Clone, Copy, PartialEq)]
enum Arrived {
    Elsewhere,
    /// In dx itself.
    InPlace,
}

/// dx (N, D) and dweight (D) by the launcher, from the same numbers each time.
fn backward(place: Place, n: usize, d: usize, arrived: Arrived) -> [Vec<f64>; 2] {
    let (device, dtype, mut rng) = (place.device(), place.dtype, rng(1));
    let mut numbers = |len| array(&device, dtype, &random(dtype, &mut rng, len, 1.5));
    let ([dh, dy, x], weight) = ([n * d; 3].map(&mut numbers), numbers(d));
    let rstd = array(&device, dtype.accumulator(), &vec![0.75; n]);
    let mut dweight = array(&device, dtype.accumulator(), &vec![0.25; d]);
    let mut scratch = unwritten(&device, dtype.accumulator(), n.div_ceil(ENGINE_NORM_CHUNK as usize) * d);
    let (held, mut dx) = match arrived {
        Arrived::Elsewhere => (Some(dh), unwritten(&device, dtype, n * d)),
        Arrived::InPlace => (None, dh),
    };
    let (out, driver) = (dx.address_mut().unwrap(), device.driver());
    let dh = held.as_ref().map_or(out.cast_const(), |dh| dh.address());
    let (sums, scratch) = (dweight.address_mut().unwrap(), scratch.address_mut().unwrap());
    let (rstd, dy, x, weight) = (rstd.address(), dy.address(), x.address(), weight.address());
    let (n, d, dtype, stream) = (n as u32, d as u32, engine_dtype(dtype), driver.stream());
    // SAFETY: arrays of the shapes that engine.h asks for.
    unsafe {
        launch!(driver, rmsnorm_backward { n, d }(out, sums, scratch, rstd, dh, dy, x, weight, n, d, dtype, stream))
            .unwrap();
    }
    [dx.to_f64(), dweight.to_f64()]
}

#[test]
fn what_has_arrived_may_lie_where_the_gradient_goes() {
    for place in places() {
        for (n, d) in [(5, 33), (17, 640), (113, 19), (203, 24)] {
            let name = format!("rmsnorm's backward of N {n}, D {d} at {place:?}");
            let in_place = place.twice(&name, || backward(place, n, d, Arrived::InPlace));
            assert!(in_place == backward(place, n, d, Arrived::Elsewhere), "{name}");
        }
    }
}

#[test]
fn a_row_of_zeros_stays_zero() {
    for place in places() {
        let (device, dtype) = (place.device(), place.dtype);
        let (_table, params) = params(&device, &[vec![17]], dtype, &[vec![0.5; 17]]);
        let mut tape = Tape::inference(&device);
        let x = tape.var(tensor(&device, &[2, 17], dtype, &[0.0; 34]));
        let y = rmsnorm(&mut tape, &x, &params[0], 1e-6).unwrap();
        assert!(y.value.to_f64().iter().all(|&y| y == 0.0), "{place:?}");
    }
}
