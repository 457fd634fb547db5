//! The evaluation loss: the same sums however the rows are batched.

use engine::ops::results::LossSums;
use engine::train::evaluate::evaluate;

use crate::tiny::{config, example, model, weights};

#[test]
fn rows_that_fill_several_batches_have_the_loss_of_each_row_alone() {
    let model = model::<f64>(&weights(&config(), 1));
    // 12,000 tokens: more than one batch takes. Rows share prefixes of 5 tokens in threes.
    let rows: Vec<Vec<u32>> = (0..150u32)
        .map(|r| (0..80).map(|t| if t < 5 { (r / 3 + t) % 31 } else { (r * 7 + t * t) % 31 }).collect())
        .collect();
    let examples: Vec<_> = rows.iter().map(|ids| example(ids, 60)).collect();
    let together = evaluate(&model, &examples, 0.0, || Ok(())).unwrap();
    let mut alone = LossSums::default();
    for example in &examples {
        alone += evaluate(&model, std::slice::from_ref(example), 0.0, || Ok(())).unwrap();
    }
    assert_eq!((together.scored, together.correct), (150.0 * 20.0, alone.correct));
    assert!((together.loss / alone.loss - 1.0).abs() < 1e-12, "{together:?}, alone {alone:?}");
    assert!((together.entropy / alone.entropy - 1.0).abs() < 1e-12, "{together:?}, alone {alone:?}");
}

#[test]
fn no_rows_are_no_tokens() {
    let model = model::<f32>(&weights(&config(), 1));
    assert_eq!(evaluate(&model, &[], 0.0, || Ok(())).unwrap(), LossSums::default());
}
