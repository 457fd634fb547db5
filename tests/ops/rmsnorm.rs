//! rmsnorm: y = x * rstd * (1 + weight), rstd = 1 / sqrt(mean(x^2) + eps).

use engine::autograd::Tape;
use engine::ops::rmsnorm::rmsnorm;

use crate::checks;
use crate::lists::rmsnorm::cases;
use crate::lists::{params, tensor};
use crate::places::places;

checks!(cases());

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
