//! The gradient of every parameter of a whole model in f64, against central differences of the loss.

use engine::autograd::Tape;
use engine::batch::Example;
use engine::batch::tree::TokenTree;
use engine::model::gemma3::Gemma3;
use engine::ops::cross_entropy::linear_cross_entropy;
use engine::ops::results::LossSums;

use crate::differences::compare;
use crate::tiny::{config, example, model, tree, weights};

/// Rows that share prefixes at several depths, one that is a prefix of another, one given twice, one on its own.
fn examples() -> Vec<Example> {
    vec![
        example(&[2, 7, 9, 4, 30, 11, 7, 7, 3], 0),
        example(&[2, 7, 9, 4, 30, 12, 8], 3),
        example(&[2, 7, 9, 5, 5, 5, 5, 5, 5, 6], 4),
        example(&[2, 7, 9, 4], 0),
        example(&[2, 7, 9, 4], 0),
        example(&[13, 14, 15, 16, 17, 18, 19], 1),
    ]
}

fn loss(model: &Gemma3, tree: &TokenTree, tape: &mut Tape) -> LossSums {
    let hidden = model.forward(tape, &model.batch(tree).unwrap(), None).unwrap();
    linear_cross_entropy(tape, &hidden, &model.embedding(), &tree.targets, tree.num_scored().max(1.0)).unwrap()
}

/// The loss and the gradient of the mean loss.
fn gradient(model: &Gemma3, tree: &TokenTree) -> (LossSums, Vec<f64>) {
    let mut gradients = model.params.gradients().unwrap();
    let mut tape = Tape::recording(model.device(), &mut gradients);
    let sums = loss(model, tree, &mut tape);
    tape.backward().unwrap();
    (sums, gradients.values.to_f64())
}

#[test]
fn every_parameter_s_gradient_equals_central_differences() {
    let (mut weights, tree) = (weights(&config(), 1), tree(&examples()));
    let model = model::<f64>(&weights);
    let (_, gradient) = gradient(&model, &tree);
    for span in model.params.spans() {
        compare(&span.name, &gradient[span.range()], |i, delta| {
            let at = span.offset + i;
            weights[at] += delta;
            let model = crate::tiny::model::<f64>(&weights);
            weights[at] -= delta;
            loss(&model, &tree, &mut Tape::inference(model.device())).loss / tree.num_scored()
        });
    }
}

#[test]
fn a_batch_has_the_loss_and_the_gradient_of_its_rows_one_by_one() {
    let model = model::<f64>(&weights(&config(), 2));
    let examples = examples();
    let whole = tree(&examples);
    assert!(whole.len() < whole.num_tokens * 3 / 4, "rows share prefixes");
    let (sums, gradient) = gradient(&model, &whole);
    let (mut alone, mut total) = (LossSums::default(), vec![0.0; gradient.len()]);
    for example in &examples {
        let tree = tree(std::slice::from_ref(example));
        let (sums, gradient) = self::gradient(&model, &tree);
        alone += sums;
        let share = tree.num_scored() / whole.num_scored();
        total.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g * share);
    }
    assert_eq!((sums.scored, sums.correct), (alone.scored, alone.correct));
    assert!((sums.loss / alone.loss - 1.0).abs() < 1e-13 && (sums.entropy / alone.entropy - 1.0).abs() < 1e-13);
    let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    for (i, (a, b)) in gradient.iter().zip(&total).enumerate() {
        assert!((a - b).abs() < 1e-12 * largest, "parameter {i}: {a}, one by one {b}");
    }
}

#[test]
fn a_batch_in_which_nothing_is_scored_has_loss_zero_and_gradient_zero() {
    let model = model::<f32>(&weights(&config(), 3));
    let (sums, gradient) = gradient(&model, &tree(&[example(&[2, 7, 9], 3), example(&[2, 8], 2)]));
    assert_eq!(sums, LossSums::default());
    assert!(gradient.iter().all(|&g| g == 0.0));
}

#[test]
fn a_step_repeats_to_the_bit_on_any_number_of_threads() {
    let (weights, tree) = (weights(&config(), 4), tree(&examples()));
    let run = || gradient(&model::<f32>(&weights), &tree);
    let first = run();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(run) == first, "{threads} threads");
    }
}
