//! mlp: y = geglu(x gate_up^T) down^T, and the launchers that it is made of where there are few rows.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use engine::device::bindings::ENGINE_FEW_ROWS;
use engine::device::driver::engine_dtype;
use engine::device::{DType, Device};
use engine::error::Result;
use engine::launch;

use crate::arrays::array;
use crate::checks;
use crate::lists::mlp::{cases, small};
use crate::places::{Place, places};

checks!(small(), cases(), check_places_of_two);

/// Rows, and two widths.
type Sizes = [u32; 3];
/// What a launch reads and writes, and its sizes.
type Launch = fn(&Device, [*mut c_void; 5], Sizes, DType) -> Result<()>;

/// By name, and what its weight is called in errors.
const LAUNCHERS: [(&str, &str, Launch); 3] = [
    ("linear_few_rows", "weight", |device, [y, x, weight, ..], [n, i, o], dtype| {
        let (driver, dtype) = (device.driver(), engine_dtype(dtype));
        // SAFETY: matrices that are large enough for what is not refused.
        unsafe { launch!(driver, linear_few_rows { n, i, o }(y, x, weight, null(), n, i, o, dtype, driver.stream())) }
    }),
    ("linear_geglu_forward", "unit", |device, [y, x, h, weight, _], [n, d, f], dtype| {
        let (driver, dtype) = (device.driver(), engine_dtype(dtype));
        // SAFETY: as above.
        unsafe {
            launch!(driver, linear_geglu_forward { n, d, f }(y, x, h, weight, null(), n, d, f, dtype, driver.stream()))
        }
    }),
    ("linear_geglu_backward", "unit", |device, [dx, y, dz, weight, x], [n, d, f], dtype| {
        let (driver, dtype) = (device.driver(), engine_dtype(dtype));
        // SAFETY: as above.
        unsafe {
            launch!(driver, linear_geglu_backward { n, d, f }(dx, y, dz, weight, x, n, d, f, dtype, driver.stream()))
        }
    }),
];

fn kernels_in_bf16() -> impl Iterator<Item = Place> {
    places().into_iter().filter(|place| !place.device().driver().is_host() && place.dtype == DType::Bf16)
}

#[test]
fn the_kernels_refuse_what_they_cannot_do() {
    for place in kernels_in_bf16() {
        let device = place.device();
        let most = ENGINE_FEW_ROWS;
        let mut matrices: Vec<_> =
            (0..5).map(|_| array(&device, DType::Bf16, &vec![0.0; 24 * most as usize])).collect();
        let at: Vec<*mut c_void> = matrices.iter_mut().map(|matrix| matrix.address_mut().unwrap()).collect();
        let at = [at[0], at[1], at[2], at[3], at[4]];
        for (name, what, launch) in LAUNCHERS {
            let refused = |at, sizes, dtype| {
                let error = launch(&device, at, sizes, dtype).unwrap_err().to_string();
                error.rsplit(": ").next().unwrap().to_owned()
            };
            launch(&device, at, [most, 8, 8], DType::Bf16).unwrap();
            launch(&device, at, [0, 8, 8], DType::Bf16).unwrap();
            launch(&device, at, [1, 8, 0], DType::Bf16).unwrap();
            assert_eq!(refused(at, [1, 8, 8], DType::F32), format!("{name} is for bf16"));
            for [n, i, o] in [[1, 12, 8], [1, 8, 4]] {
                let lies = format!("a {what} of {o} x {i} that lies unevenly");
                assert_eq!(refused(at, [n, i, o], DType::Bf16), lies);
            }
            let read = match name {
                "linear_few_rows" => 1..3,
                "linear_geglu_forward" => 0..4,
                _ => 0..5,
            };
            for number in read {
                let mut at = at;
                at[number] = at[number].cast::<u8>().wrapping_add(2).cast();
                assert_eq!(refused(at, [1, 8, 8], DType::Bf16), format!("a {what} of 8 x 8 that lies unevenly"));
            }
        }
        let (_, _, few_rows) = LAUNCHERS[0];
        let error = few_rows(&device, at, [most + 1, 8, 8], DType::Bf16).unwrap_err().to_string();
        assert!(error.ends_with(&format!("{} rows, at most {most}", most + 1)), "{error}");
        // Nobody has to want what the gated unit is made of, or the unit again.
        let [_, (_, _, forward), (_, _, backward)] = LAUNCHERS;
        for n in [1, most + 1] {
            forward(&device, [at[0], null_mut(), at[2], at[3], null_mut()], [n, 8, 8], DType::Bf16).unwrap();
            backward(&device, [at[0], null_mut(), at[2], at[3], at[4]], [n, 8, 8], DType::Bf16).unwrap();
        }
    }
}
