//! rmsnorm: y = x * rstd * (1 + weight), rstd = 1 / sqrt(mean(x^2) + eps).

use engine::autograd::{Tape, rows_of_part};
use engine::device::DType;
use engine::device::driver::engine_dtype;
use engine::launch;
use engine::ops::rmsnorm::rmsnorm;

use crate::arrays::{array, unwritten};
use crate::checks;
use crate::checks::{check_f64_is_refused, check_gradients, check_places_of_two};
use crate::lists::rmsnorm::{case_of_one_weight, cases};
use crate::lists::{params, random, rng, tensor};
use crate::places::{Place, places};

checks!(cases());

#[test]
fn kernels_refuse_f64() {
    check_f64_is_refused(&cases()[2]);
}

#[test]
fn a_weight_that_is_used_twice_has_the_gradients_of_both_uses() {
    let case = [case_of_one_weight(6, 16, 0.5)];
    check_gradients(&case);
    check_places_of_two(&case);
}

/// What has arrived at x from elsewhere when the backward comes.
#[derive(Clone, Copy, PartialEq)]
enum Arrived {
    Elsewhere,
    /// In dx itself.
    InPlace,
}

/// dx (N, D) and the parts of dweight by the launcher, from the same numbers each time.
fn backward(place: Place, n: usize, d: usize, arrived: Arrived) -> [Vec<f64>; 2] {
    let (device, dtype, mut rng) = (place.device(), place.dtype, rng(1));
    let mut numbers = |len| array(&device, dtype, &random(dtype, &mut rng, len, 1.5));
    let ([dh, dy, x], weight) = ([n * d; 3].map(&mut numbers), numbers(d));
    let rstd = array(&device, dtype.accumulator(), &vec![0.75; n]);
    let rows = rows_of_part(n);
    let mut parts = unwritten(&device, dtype.accumulator(), n.div_ceil(rows) * d);
    let (held, mut dx) = match arrived {
        Arrived::Elsewhere => (Some(dh), unwritten(&device, dtype, n * d)),
        Arrived::InPlace => (None, dh),
    };
    let (out, driver) = (dx.address_mut().unwrap(), device.driver());
    let dh = held.as_ref().map_or(out.cast_const(), |dh| dh.address());
    let (sums, rows) = (parts.address_mut().unwrap(), rows as u32);
    let (rstd, dy, x, weight) = (rstd.address(), dy.address(), x.address(), weight.address());
    let (n, d, dtype, stream) = (n as u32, d as u32, engine_dtype(dtype), driver.stream());
    // SAFETY: arrays of the shapes that engine.h asks for.
    unsafe {
        launch!(driver, rmsnorm_backward { n, d }(out, sums, rstd, dh, dy, x, weight, n, d, rows, dtype, stream))
            .unwrap();
    }
    [dx.to_f64(), parts.to_f64()]
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
fn rows_that_no_block_has_shared_memory_for_are_refused() {
    let device = crate::places::devices().into_iter().find(|device| !device.driver().is_host()).expect("the emulator");
    let (n, d, null) = (1, 16_384, std::ptr::null_mut());
    // SAFETY: nothing is launched.
    let refused = unsafe {
        let (dtype, stream) = (engine_dtype(DType::F32), null);
        launch!(
            device.driver(),
            rmsnorm_backward { n, d }(null, null, null, null, null, null, null, n, d, 4, dtype, stream)
        )
    };
    let error = refused.unwrap_err().report();
    assert!(error.contains("rows of 16384 elements: at most 12288"), "{error}");
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
