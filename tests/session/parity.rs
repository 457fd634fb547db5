//! Differences of two lists of tokens lead from the one to the other.

use engine::session::parity::{Compared, Part, Step};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What the differences make of the model's tokens.
fn applied(text: &Compared) -> Vec<u32> {
    let theirs = text.other.as_ref().unwrap();
    let (mut out, mut at) = (Vec::new(), 0);
    for step in text.differences().concat() {
        let (model, other) = match &step {
            Step::Equal { model, other } => {
                assert_eq!(text.model[model.clone()], theirs[other.clone()]);
                (model, other)
            }
            Step::Differs { model, other } => (model, other),
        };
        // What stands between two differences is equal.
        out.extend(&text.model[at..model.start]);
        assert_eq!(out.len(), other.start);
        out.extend(&theirs[other.clone()]);
        at = model.end;
    }
    out.extend(&text.model[at..]);
    out
}

#[test]
fn differences_lead_from_the_models_tokens_to_the_others() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..500 {
        let mut ids = |n: usize| (0..n).map(|_| rng.random_range(0..6)).collect::<Vec<u32>>();
        let (model, mut other) = (ids(40), ids(3));
        other.extend(&model[4..17]);
        other.extend(ids(2));
        other.extend(&model[15..]);
        let text = Compared { part: Part::Prompt, origin: "r:1".into(), model, other: Ok(other.clone()) };
        assert_eq!(applied(&text), other);
        assert!(!text.is_equal());
    }
}

#[test]
fn equal_tokens_have_no_differences_and_a_refusal_is_not_equal() {
    let equal = Compared { part: Part::Prompt, origin: "r:1".into(), model: vec![1, 2, 3], other: Ok(vec![1, 2, 3]) };
    assert!(equal.is_equal() && equal.differences().is_empty());
    let refused = Compared { other: Err("no".into()), ..equal };
    assert!(!refused.is_equal() && refused.differences().is_empty());
}
