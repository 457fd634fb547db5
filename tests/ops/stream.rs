//! The residual stream: a product that does the norms that were left to it gives what norms and product give, to the bit.

use std::ffi::c_void;
use std::ptr::null_mut;

use engine::autograd::{Param, Tape};
use engine::device::bindings::{ENGINE_NORMED_ROWS, ENGINE_NORMED_WIDTH, engine_norm_pair};
use engine::device::driver::engine_dtype;
use engine::device::{DType, Device};
use engine::error::Result;
use engine::launch;
use engine::ops::linear::{linear, opening_linear};
use engine::ops::mlp::{mlp, opening_mlp};
use engine::ops::residual::{NormPair, residual_rmsnorm};
use engine::ops::stream::Stream;

use crate::arrays::array;
use crate::lists::{params, random, rng, tensor};
use crate::places::{Place, places};

/// N rows, D, F of the gated unit, and O of the product that follows it.
type Sizes = [usize; 4];

/// The stream behind two blocks, and what the third block opens with. `by_products`: the norms are left to products.
fn run(place: Place, [n, d, f, o]: Sizes, by_products: bool) -> [Vec<u64>; 3] {
    let (device, dtype, mut rng) = (place.device(), place.dtype, rng(7));
    let shapes = [vec![d], vec![d], vec![2 * f, d], vec![d, f], vec![d], vec![d], vec![o, d]];
    let numbers: Vec<Vec<f64>> =
        shapes.iter().map(|shape| random(dtype, &mut rng, shape.iter().product(), 0.3)).collect();
    let (_table, params) = params(&device, &shapes, dtype, &numbers);
    let [first, second] =
        [0, 4].map(|at| NormPair { weight: params[at].clone(), next_weight: params[at + 1].clone(), eps: 1e-6 });
    let (gate_up, down, last): (&Param, &Param, &Param) = (&params[2], &params[3], &params[6]);
    let mut tape = Tape::inference(&device);
    let mut var = |scale: f64| {
        let values = random(dtype, &mut rng, n * d, scale);
        tape.var(tensor(&device, &[n, d], dtype, &values))
    };
    let (h, x) = (var(2.0), var(1.0));
    let (h, z, y) = if by_products {
        let mut stream = Stream::new([h.clone(), h]);
        stream.close(&mut tape, &x, &first).unwrap();
        let z = opening_mlp(&mut tape, &mut stream, gate_up, down).unwrap();
        stream.close(&mut tape, &z, &second).unwrap();
        let y = opening_linear(&mut tape, &mut stream, last).unwrap();
        // What is closed now adds nothing to the stream but its own norm.
        stream.close(&mut tape, &x, &first).unwrap();
        let [h, _] = stream.normed(&mut tape).unwrap();
        (h, z, y)
    } else {
        let (h, opened) = residual_rmsnorm(&mut tape, &h, &x, &first).unwrap();
        let z = mlp(&mut tape, &opened, gate_up, down).unwrap();
        let (h, opened) = residual_rmsnorm(&mut tape, &h, &z, &second).unwrap();
        let y = linear(&mut tape, &opened, last).unwrap();
        (residual_rmsnorm(&mut tape, &h, &x, &first).unwrap().0, z, y)
    };
    [h, z, y].map(|var| var.value.to_f64().iter().map(|x| x.to_bits()).collect())
}

#[test]
fn products_that_norm_their_rows_give_what_norms_and_products_give_to_the_bit() {
    let most = [ENGINE_NORMED_ROWS as usize, ENGINE_NORMED_WIDTH as usize];
    let sizes = [
        [1, 64, 8, 8],
        [16, 64, 24, 16],
        // More rows than blocks, each of which writes some of the sums.
        [17, 72, 16, 24],
        [24, 640, 64, 48],
        [most[0], most[1], 16, 16],
        // What nobody leaves to a product: more rows, wider ones, and such as no access of 16 bytes fits.
        [most[0] + 1, 64, 16, 16],
        [2, most[1] + 8, 16, 16],
        [3, 20, 16, 16],
        // The first product can do norms and the second cannot.
        [3, 64, 16, 12],
    ];
    for place in places() {
        for sizes in sizes {
            let joined = place.twice("stream", || run(place, sizes, true));
            assert!(joined == run(place, sizes, false), "{place:?}, {sizes:?}");
        }
    }
}

#[test]
fn norms_that_a_product_has_done_are_not_done_again() {
    for place in kernels_in_bf16() {
        let (device, mut tape) = (place.device(), Tape::inference(&place.device()));
        let shapes = [vec![8], vec![8], vec![8, 8]];
        let (_table, params) =
            params(&device, &shapes, place.dtype, &shapes.clone().map(|of| vec![0.5; of.iter().product()]));
        let x = tape.var(tensor(&device, &[2, 8], place.dtype, &[1.0; 16]));
        let norms = NormPair { weight: params[0].clone(), next_weight: params[1].clone(), eps: 1e-6 };
        let mut stream = Stream::new([x.clone(), x.clone()]);
        stream.close(&mut tape, &x, &norms).unwrap();
        opening_linear(&mut tape, &mut stream, &params[2]).unwrap();
        let error = stream.normed(&mut tape).map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, "internal: a block opens twice");
    }
}

fn kernels_in_bf16() -> impl Iterator<Item = Place> {
    places().into_iter().filter(|place| !place.device().driver().is_host() && place.dtype == DType::Bf16)
}

/// A launch with norms of rows (n, i), by weights of o rows.
type Launch = fn(&Device, [*mut c_void; 4], &engine_norm_pair, [u32; 3]) -> Result<()>;

const LAUNCHERS: [Launch; 2] = [
    |device, [y, x, weight, _], norms, [n, i, o]| {
        let (driver, dtype) = (device.driver(), engine_dtype(DType::Bf16));
        // SAFETY: matrices that are large enough for what is not refused.
        unsafe { launch!(driver, linear_few_rows { n, i, o }(y, x, weight, norms, n, i, o, dtype, driver.stream())) }
    },
    |device, [y, h, weight, x], norms, [n, d, f]| {
        let (driver, dtype) = (device.driver(), engine_dtype(DType::Bf16));
        // SAFETY: as above.
        unsafe {
            launch!(driver, linear_geglu_forward { n, d, f }(y, x, h, weight, norms, n, d, f, dtype, driver.stream()))
        }
    },
];

#[test]
fn the_kernels_refuse_norms_that_they_cannot_do() {
    for place in kernels_in_bf16() {
        let (device, width) = (place.device(), ENGINE_NORMED_WIDTH);
        let len = (ENGINE_NORMED_ROWS * width) as usize;
        let mut matrices: Vec<_> = (0..7).map(|_| array(&device, DType::Bf16, &vec![0.0; len])).collect();
        let at: Vec<*mut c_void> = matrices.iter_mut().map(|matrix| matrix.address_mut().unwrap()).collect();
        let norms = engine_norm_pair { sum: at[4], h: at[5], weight: at[6], next_weight: at[6], eps: 1e-6 };
        let at = [at[0], at[1], at[2], at[3]];
        for launch in LAUNCHERS {
            let refused = |norms: &engine_norm_pair, sizes| {
                let error = launch(&device, at, norms, sizes).unwrap_err().to_string();
                error.rsplit(": ").next().unwrap().to_owned()
            };
            launch(&device, at, &norms, [ENGINE_NORMED_ROWS, width, 8]).unwrap();
            launch(&device, at, &norms, [0, 8, 8]).unwrap();
            // The unit's own values, too, where somebody wants them, and where nobody does.
            launch(&device, [at[0], at[1], at[2], null_mut()], &norms, [3, 8, 8]).unwrap();
            for [n, i] in [[ENGINE_NORMED_ROWS + 1, 8], [1, width + 8]] {
                let most = format!("at most {ENGINE_NORMED_ROWS} of {width}");
                assert_eq!(refused(&norms, [n, i, 8]), format!("{n} rows of {i} to be normed, {most}"));
            }
            let odd = at[3].cast::<u8>().wrapping_add(2).cast::<c_void>();
            for norms in [
                engine_norm_pair { sum: odd, ..norms },
                engine_norm_pair { h: odd, ..norms },
                engine_norm_pair { weight: odd, ..norms },
                engine_norm_pair { next_weight: odd, ..norms },
            ] {
                assert_eq!(refused(&norms, [1, 8, 8]), "norms that lie unevenly");
            }
        }
    }
}
