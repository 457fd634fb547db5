//! The host's search for the largest product against all products, by every kernel that multiplies bytes on this machine.

use engine::autograd::{ParamSpec, Params};
use engine::device::{Device, Element, Tensor};
use engine::host::gemm::{Matrix, Store};
use engine::host::products::product;
use engine::host::search::HeadSearch;
use engine::host::search::bytes::Kernel;
use engine::host::simd::Scalar;
use engine::ops::greedy::Greedy;
use half::bf16;
use rand::RngExt;

use crate::lists::rng;

/// Which row of the weights gives the largest product with each row of x, by computing all.
fn largest_of_all<T: Scalar<Acc = f32>>(weights: &[T], x: &[T], terms: usize) -> Vec<u32> {
    let (rows, v) = (x.len() / terms, weights.len() / terms);
    let mut products = vec![T::zeroed(); rows * v];
    // Row by row, as a search does: more than 64 would be another kernel, which rounds in another order.
    for (products, x) in products.chunks_mut(v).zip(x.chunks(terms)) {
        product(products, Store::Write, Matrix::new(x, 1, terms), Matrix::new(weights, v, terms).t());
    }
    let first_of_largest = |products: &[T]| {
        (0..v).fold(0, |best, i| if products[i].wide() > products[best].wide() { i } else { best }) as u32
    };
    products.chunks(v).map(first_of_largest).collect()
}

/// Weights and rows of x for which the bytes say little: terms of different sizes, and beside each row's best weight others
/// that hardly differ from it, some not at all.
struct Case {
    v: usize,
    terms: usize,
    rows: usize,
    /// Weights beside the best, and by what part of their size they differ.
    near: usize,
    apart: f64,
}

impl Case {
    fn numbers<T: Scalar<Acc = f32>>(&self, seed: u64) -> (Vec<T>, Vec<T>) {
        let mut rng = rng(seed);
        let mut normal = || (0..12).map(|_| rng.random_range(-0.5..0.5)).sum::<f64>();
        let spread: Vec<f64> = (0..self.terms).map(|_| (0.7 * normal()).exp()).collect();
        let of_x: Vec<f64> = spread.iter().map(|spread| spread * (0.5 * normal()).exp()).collect();
        let rows: Vec<f64> = (0..self.rows * self.terms).map(|i| normal() * of_x[i % self.terms]).collect();
        let mut weights: Vec<f64> = (0..self.v * self.terms).map(|i| normal() / spread[i % self.terms]).collect();
        for (r, row) in rows.chunks(self.terms).enumerate() {
            // Along x as it is seen after the spread is taken out of both.
            let best: Vec<f64> = row.iter().zip(&spread).map(|(x, spread)| 0.6 * x / spread / spread).collect();
            for i in 0..self.near {
                // Some places apart, and the first ones a copy of another.
                let at = (r * 7919 + i * 104_729) % self.v;
                for (term, best) in best.iter().enumerate() {
                    let differs = if i % 3 == 2 { 0.0 } else { self.apart * normal() / spread[term] };
                    weights[at * self.terms + term] = best + differs;
                }
            }
        }
        let narrow = |x: &Vec<f64>| x.iter().map(|&x| T::narrow(x as f32)).collect();
        (narrow(&weights), narrow(&rows))
    }
}

fn check<T: Scalar<Acc = f32> + Element>(kernel: Kernel, case: &Case, seed: u64) -> f64 {
    let name = format!("{kernel:?} {} x {} for {} rows of {:?}", case.v, case.terms, case.rows, T::DTYPE);
    let (weights, x) = case.numbers::<T>(seed);
    // SAFETY: the weights stay where and as they are.
    let mut search = unsafe { HeadSearch::new(kernel, weights.as_ptr(), [case.v, case.terms]) };
    let mut computed = 0;
    // The second call has the bytes of the first.
    for _ in 0..2 {
        let found = search.largest(&x).unwrap_or_else(|| panic!("{name}: all products must be computed"));
        let expected = largest_of_all(&weights, &x, case.terms);
        assert_eq!(found.iter().map(|(token, _)| *token).collect::<Vec<u32>>(), expected, "{name}");
        computed = found.iter().map(|(_, computed)| computed).sum();
    }
    computed as f64 / case.rows as f64
}

#[test]
fn what_is_found_is_the_first_of_the_largest_of_all_products() {
    for kernel in Kernel::available() {
        for (v, terms, rows) in [(4096, 64, 1), (3001, 63, 3), (4097, 130, 20), (2000, 33, 29), (1024, 16, 70)] {
            for apart in [0.0, 1e-3, 1e-2, 5e-2] {
                let case = Case { v, terms, rows, near: if rows > 40 { 2 } else { 12 }, apart };
                for seed in 0..3 {
                    check::<f32>(kernel, &case, seed);
                    check::<bf16>(kernel, &case, seed);
                }
            }
        }
    }
}

#[test]
fn few_products_are_computed_where_bytes_tell_most_apart() {
    for kernel in Kernel::available() {
        let case = Case { v: 16_384, terms: 640, rows: 4, near: 6, apart: 1e-2 };
        let computed = check::<bf16>(kernel, &case, 1);
        assert!((1.0..100.0).contains(&computed), "{kernel:?}: {computed} of {} products", case.v);
    }
}

/// Equal weights, rows without any number and weights that are none.
#[test]
fn where_bytes_tell_nothing_all_products_are_asked_for() {
    let (v, terms) = (512, 32);
    let answer = |weights: &[f32], x: &[f32]| {
        // SAFETY: as above.
        let mut search = unsafe { HeadSearch::new(Kernel::Portable, weights.as_ptr(), [v, terms]) };
        search.largest(x).map(|found| found[0].0)
    };
    let mut weights = vec![0.25; v * terms];
    let x = vec![1.0; terms];
    assert_eq!(answer(&weights, &x), None);
    weights[300 * terms..301 * terms].fill(0.5);
    assert_eq!(answer(&weights, &x), Some(300));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut with_bad = x.clone();
        with_bad[3] = bad;
        assert_eq!(answer(&weights, &with_bad), None, "{bad} in x");
        let mut weights = weights.clone();
        weights[77] = bad;
        assert_eq!(answer(&weights, &x), None, "{bad} in the weights");
    }
    assert_eq!(answer(&weights, &vec![0.0; terms]), None);
    weights[300 * terms..301 * terms].fill(-0.5);
    assert_eq!(answer(&weights, &vec![-1.0; terms]), Some(300));
}

/// After calls in vain it gives up, but not after some among many.
#[test]
fn a_search_that_finds_nothing_ends() {
    let (v, terms) = (512, 32);
    let mut weights = vec![0.25f32; v * terms];
    weights[300 * terms..301 * terms].fill(0.5);
    let (good, bad) = (vec![1.0; terms], vec![0.0; terms]);
    // SAFETY: as above.
    let new = || unsafe { HeadSearch::new(Kernel::Portable, weights.as_ptr(), [v, terms]) };
    let mut search = new();
    assert!(search.largest(&good).is_some());
    (0..3).for_each(|_| assert!(search.largest(&bad).is_none()));
    assert!(search.largest(&good).is_some());
    (0..3).for_each(|_| assert!(search.largest(&bad).is_none()));
    assert!(search.largest(&good).is_none());
    let mut search = new();
    for _ in 0..20 {
        assert!(search.largest(&good).is_some());
        assert!(search.largest(&bad).is_none());
    }
}

/// As decoding asks: of its first calls it learns, then tokens are those of all logits; on a device without a search they are never found.
#[test]
fn a_head_that_is_asked_again_and_again_finds_the_tokens_of_its_logits() {
    let case = Case { v: 4096, terms: 64, rows: 5, near: 6, apart: 1e-2 };
    let (weights, x) = case.numbers::<bf16>(7);
    let expected = largest_of_all(&weights, &x, case.terms);
    let answers = |device: &Device| {
        let specs = [ParamSpec::new("head".into(), &[case.v, case.terms])];
        let params = Params::new(&specs, Tensor::from_slice(device, &[weights.len()], &weights)).unwrap();
        let greedy = Greedy::new(device, params.get("head"));
        let x = Tensor::from_slice(device, &[case.rows, case.terms], &x);
        (0..7).map(|_| greedy.tokens(&x).unwrap().map(|tokens| tokens.download::<u32>().unwrap())).collect::<Vec<_>>()
    };
    let found = answers(&engine::host::device());
    let searches = Kernel::fastest().is_some();
    assert!(found[..4].iter().all(Option::is_none));
    assert!(
        found[4..].iter().all(|tokens| *tokens == searches.then(|| expected.clone())),
        "{found:?}, not {expected:?}"
    );
    #[cfg(engine_emulated)]
    assert!(answers(&engine::emulated::device().unwrap()).iter().all(Option::is_none));
}
