//! embedding: h = scale * weight[id].

use engine::autograd::Tape;
use engine::batch::inputs::Inputs;
use engine::device::driver::engine_dtype;
use engine::launch;
use engine::ops::embedding::{Noise, TokenIds, embedding};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::arrays::{array, indices, unwritten};
use crate::checks;
use crate::checks::check_f64_is_refused;
use crate::lists::embedding::cases;
use crate::lists::{gradients, params, random, rng, round, tensor};
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

#[test]
fn noise_is_added_below_its_amplitude_and_has_no_gradient() {
    const D: usize = 33;
    for place in places() {
        let (device, ids) = (place.device(), [3u32, 0, 3, 1, 4]);
        let values = random(place.dtype, &mut rng(2), 5 * D, 1.0);
        let pass = |amplitude: Option<f64>| {
            let (table, params) = params(&device, &[vec![5, D]], place.dtype, std::slice::from_ref(&values));
            let inputs = Inputs::new(&device, false);
            let mut tokens = TokenIds::new(&inputs, &ids, 5).unwrap();
            if let Some(amplitude) = amplitude {
                let mut noise = Noise { amplitude, rng: ChaCha8Rng::seed_from_u64(7) };
                tokens = tokens.with_noise(&inputs, &mut noise, D, place.dtype);
            }
            inputs.send().unwrap();
            let mut gradients = gradients(&table, 0.0);
            let mut tape = Tape::recording(&device, &mut gradients);
            let h = embedding(&mut tape, &tokens, &params[0], 1.0).unwrap();
            let numbers = h.value.to_f64();
            let ones = tensor(&device, &[5, D], place.dtype, &[1.0; 5 * D]);
            tape.push("ones", move |ctx| ctx.give(&h, ones));
            tape.backward().unwrap();
            (numbers, gradients.values.to_f64())
        };
        let ((plain, gradient), (noisy, same), (silent, _)) = (pass(None), pass(Some(0.25)), pass(Some(0.0)));
        assert_eq!(same, gradient, "{place:?}");
        assert_eq!(silent, plain, "{place:?}");
        let noise: Vec<f64> = noisy.iter().zip(&plain).map(|(noisy, plain)| noisy - plain).collect();
        // A sum below 2 in size is rounded by 2^-8 in bf16.
        assert!(noise.iter().all(|x| x.abs() <= 0.25 + 1.0 / 256.0), "{place:?}");
        // Uniform numbers: variance a^2 / 3; of 165 the mean square is off by 7 % in the root mean square.
        let mean_square = noise.iter().map(|x| x * x).sum::<f64>() / noise.len() as f64;
        assert!((mean_square * 3.0 / 0.0625 - 1.0).abs() < 0.3, "{place:?}: {mean_square}");
        assert!(noise[..D] != noise[2 * D..3 * D], "{place:?}: rows of one id have the same noise");
    }
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
            let mut squares = unwritten(&device, dtype.accumulator(), 8);
            let expected = |i: usize| {
                0.25 + 2.0 * [&[2][..], &[0], &[1, 3]][i / d].iter().map(|row| dh[row * d + i % d]).sum::<f64>()
            };
            let expected: Vec<f64> = (0..3 * d).map(expected).collect();
            let growth = |id: usize| expected[id * d..][..d].iter().map(|g| g * g - 0.0625).sum::<f64>();
            let growth = [0.0, growth(0), 0.0, 0.0, growth(1), growth(2), 0.0, 0.0];
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
                        squares.address_mut().unwrap(),
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
            // 16 squares, each of two roundings, and their sum.
            let close = |(got, exact): (&f64, &f64)| (got - exact).abs() <= 18.0 * f64::from(f32::EPSILON) * exact;
            let squares = squares.to_f64();
            assert!(squares.iter().zip(&growth).all(close), "{place:?}, D {d}: {squares:?}, not {growth:?}");
        }
    }
}
