//! embedding: h = scale * weight[id].

use engine::autograd::Tape;
use engine::batch::inputs::Inputs;
use engine::device::driver::engine_dtype;
use engine::launch;
use engine::ops::embedding::{TokenIds, embedding};

use crate::arrays::{array, indices, unwritten};
use crate::checks;
use crate::checks::check_f64_is_refused;
use crate::lists::embedding::cases;
use crate::lists::{params, random, rng, round};
use crate::places::{Place, places};

checks!(cases());

#[test]
fn kernels_refuse_f64() {
    check_f64_is_refused(&cases()[1]);
}

#[test]
fn an_id_outside_the_vocabulary_is_an_error_that_names_it() {
    let device = engine::host::device();
    let error = TokenIds::new(&Inputs::new(&device, false), &[0, 4, 5], 5).err().unwrap();
    assert_eq!(error.to_string(), "embedding: token id 5 is outside the vocabulary of 5");
}

#[test]
fn ids_that_were_not_sent_are_an_error() {
    let device = engine::host::device();
    let ids = TokenIds::new(&Inputs::new(&device, false), &[0, 4], 5).unwrap();
    let (_table, params) = params(&device, &[vec![5, 2]], engine::device::DType::F32, &[vec![0.5; 10]]);
    let error = embedding(&mut Tape::inference(&device), &ids, &params[0], 1.0).unwrap_err();
    assert_eq!(error.to_string(), "internal: the arrays of a batch were not sent");
}

/// h (N, D) of a weight of 41 rows, by the launcher.
fn forward(place: Place, weight: &[f64], ids: &[u32], d: usize) -> Vec<f64> {
    let (device, dtype) = (place.device(), place.dtype);
    let (n, weight, ids) = (ids.len(), array(&device, dtype, weight), indices(&device, ids));
    let mut h = unwritten(&device, dtype, n * d);
    let (n, d, dtype, driver) = (n as u32, d as u32, engine_dtype(dtype), device.driver());
    let (out, weight, ids) = (h.address_mut().unwrap(), weight.address(), ids.address().cast());
    // SAFETY: arrays of the shapes that engine.h asks for; ids are below 41.
    unsafe {
        launch!(driver, embedding_forward { n, d }(out, weight, ids, n, d, 2.0, dtype, driver.stream())).unwrap()
    };
    h.to_f64()
}

#[test]
fn an_id_of_u32_max_gives_a_row_of_zeros() {
    for place in places() {
        for d in [16, 33] {
            let weight = random(place.dtype, &mut rng(1), 41 * d, 1.0);
            let ids: Vec<u32> = (0..17).map(|i| if i % 3 == 0 { u32::MAX } else { 40 - i * i % 7 }).collect();
            let row = |&id: &u32| (0..d).map(move |j| (id, j));
            let element = |(id, j): (u32, usize)| if id == u32::MAX { 0.0 } else { 2.0 * weight[id as usize * d + j] };
            let expected: Vec<f64> = ids.iter().flat_map(row).map(element).collect();
            assert_eq!(forward(place, &weight, &ids, d), expected, "{place:?}, D {d}");
        }
    }
}

#[test]
fn empty_runs_of_rows_add_nothing_wherever_they_are() {
    // Rows 1 and 3 have id 2, row 0 has id 1, row 2 id 0; what a run that is empty would name is row 0, 1 or 2.
    let (ids, rows, starts) = ([1, 2, 0, 2], [2, 0, 1, 3], [0, 0, 1, 1, 1, 2, 4, 4, 4]);
    for place in places() {
        for d in [1, 16] {
            let (device, dtype) = (place.device(), place.dtype);
            let dh: Vec<f64> = (0..4 * d).map(|i| round(dtype, i as f64 + 1.0)).collect();
            let mut dweight = array(&device, dtype.accumulator(), &vec![0.25; 3 * d]);
            let expected = |i: usize| {
                0.25 + 2.0 * [&[2][..], &[0], &[1, 3]][i / d].iter().map(|row| dh[row * d + i % d]).sum::<f64>()
            };
            let expected: Vec<f64> = (0..3 * d).map(expected).collect();
            let (dh, lists) =
                (array(&device, dtype, &dh), [&ids[..], &rows, &starts].map(|list| indices(&device, list)));
            let [ids, rows, starts] = lists.each_ref().map(|list| list.address().cast());
            let (out, u, d, dtype) = (dweight.address_mut().unwrap(), 8, d as u32, engine_dtype(dtype));
            let driver = device.driver();
            // SAFETY: arrays of the shapes that engine.h asks for: 4 rows, 3 ids, 8 runs.
            unsafe {
                launch!(
                    driver,
                    embedding_backward { u, d }(
                        out,
                        dh.address(),
                        ids,
                        rows,
                        starts,
                        u,
                        d,
                        2.0,
                        dtype,
                        driver.stream()
                    )
                )
                .unwrap();
            }
            assert_eq!(dweight.to_f64(), expected, "{place:?}, D {d}");
        }
    }
}
