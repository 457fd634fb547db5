//! lora: a product whose weight has an update of low rank.

use engine::autograd::{Gradients, ParamSpec, Params, Tape};
use engine::device::{DType, Purpose};
use engine::ops::linear::linear;
use engine::ops::rmsnorm::rmsnorm;

use crate::checks;
use crate::lists::lora::{cases, small};
use crate::lists::tensor;
use crate::places::places;

checks!(small(), cases(), check_places_of_two);

#[test]
fn a_frozen_parameter_gets_no_gradient_and_hands_on_what_a_trained_one_does() {
    let specs = [ParamSpec::new("w".into(), &[4, 4]), ParamSpec::new("norm".into(), &[4])];
    let values: Vec<f64> = (0..20).map(|i| f64::from(i - 9) / 8.0).collect();
    for place in places() {
        let device = place.device();
        let flat = tensor(&device.of(Purpose::Weights), &[20], place.dtype.accumulator(), &values);
        let params = |is_frozen: bool| {
            let params = Params::new(&specs, flat.clone()).unwrap();
            if is_frozen { params.frozen_in(place.dtype).unwrap() } else { params.computed_in(place.dtype).unwrap() }
        };
        // dx, and the gradient of the trained parameters that are there.
        let pass = |params: &Params, gradients: &mut Gradients| {
            let mut tape = Tape::recording(&device, gradients);
            let x = tape.var(tensor(&device, &[2, 4], place.dtype, &values[..8]));
            let caught = crate::lists::catch(&mut tape, std::slice::from_ref(&x));
            let y = linear(&mut tape, &x, &params.get("w")).unwrap();
            let y = rmsnorm(&mut tape, &y, &params.get("norm"), 1e-6).unwrap();
            crate::lists::seed(&mut tape, vec![y], place.dtype, vec![vec![0.5; 8]]);
            let ended = tape.backward();
            (caught.take(), ended)
        };
        let trained = params(false);
        let mut gradients = trained.gradients().unwrap();
        let (expected, ended) = pass(&trained, &mut gradients);
        ended.unwrap();
        assert!(gradients.values.to_f64().iter().any(|g| *g != 0.0));
        let frozen = params(true);
        assert_eq!((frozen.master_dtype(), frozen.dtype()), (place.dtype, place.dtype));
        // Gradients of others, which stay as they are: nothing is touched, and that is an error.
        let mut others = trained.gradients().unwrap();
        let (got, ended) = pass(&frozen, &mut others);
        assert_eq!(got, expected, "{place:?}");
        assert!(others.values.to_f64().iter().all(|g| *g == 0.0), "{place:?}");
        assert!(ended.unwrap_err().to_string().contains("`w` received no gradient"));
    }
}

#[test]
fn a_weight_is_kept_once_when_it_is_frozen() {
    let device = engine::host::device();
    let flat = tensor(&device.of(Purpose::Weights), &[4], DType::F32, &[1.0; 4]);
    let before = device.peak_bytes();
    let params = Params::new(&[ParamSpec::new("w".into(), &[2, 2])], flat).unwrap().frozen_in(DType::F32).unwrap();
    assert_eq!((params.len(), device.peak_bytes()), (4, before));
}
