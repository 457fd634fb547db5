//! embedding: h = scale * weight[id].

use engine::autograd::Tape;
use engine::ops::embedding::embedding;
use rand::RngExt;

use crate::cases::{Case, Output, params, poisoned_device, rng};
use crate::gradcheck::check_gradients;
use crate::properties::{check_formula, check_precision, check_repeats};

/// N tokens of a vocabulary V, width D. Ids are drawn from half of the vocabulary: some repeat, some never come.
fn case(n: usize, v: usize, d: usize) -> Case {
    let mut rng = rng(11);
    let ids: Vec<u32> = (0..n).map(|_| rng.random_range(0..v.div_ceil(2)) as u32).collect();
    let (scale, same) = ((d as f64).sqrt(), ids.clone());
    Case {
        name: format!("embedding of N {n}, V {v}, D {d}"),
        inputs: vec![],
        params: vec![vec![v, d]],
        amplitude: 1.0,
        terms: n,
        run: Box::new(move |tape, _, params| {
            Ok(Output::Vars(vec![embedding(tape, &ids.as_slice().into(), &params[0], scale)?]))
        }),
        formula: Box::new(move |_, params| {
            let row = |&id: &u32| (0..d).map(move |j| (id as usize, j));
            vec![same.iter().flat_map(row).map(|(id, j)| scale * params[0][id * d + j]).collect()]
        }),
    }
}

fn cases() -> Vec<Case> {
    // The last is more than one task of rows.
    let shapes = [(1, 257, 1), (2, 5, 2), (5, 2, 17), (17, 7, 5), (113, 257, 5), (203, 4099, 3), (113, 17, 257)];
    shapes.map(|(n, v, d)| case(n, v, d)).into()
}

#[test]
fn the_gradient_equals_central_differences() {
    check_gradients(&cases());
}

#[test]
fn the_values_equal_the_formula() {
    check_formula(&cases());
}

#[test]
fn f32_is_as_precise_as_f32_can_be() {
    check_precision(&cases());
}

#[test]
fn runs_repeat_to_the_bit_on_any_number_of_threads() {
    check_repeats(&cases());
}

#[test]
fn an_id_outside_the_vocabulary_is_an_error_that_names_it() {
    let device = poisoned_device();
    let (_table, params) = params::<f32>(&device, &[vec![5, 2]], &[vec![0.5; 10]]);
    let ids = [0u32, 4, 5].as_slice().into();
    let error = embedding(&mut Tape::inference(&device), &ids, &params[0], 1.0).unwrap_err();
    assert_eq!(error.to_string(), "embedding: token id 5 is outside the vocabulary of 5");
}
