//! Bounds where they are reached. That what is found is the first of the largest products is shown by tests/ops/search.rs.

use half::bf16;

use super::bytes::{Kernel, with_unit};
use super::view::View;
use super::{HeadSearch, panels_of};
use crate::host::simd::Scalar;

/// What is found for x among weights that are seen so.
fn found<T: Scalar<Acc = f32>>(kernel: Kernel, weights: &[Vec<f32>], x: &[f32], view: View) -> u32 {
    let narrow = |numbers: &[f32]| numbers.iter().map(|&x| T::narrow(x)).collect::<Vec<T>>();
    let (weights, x, shape) = (narrow(&weights.concat()), narrow(x), [weights.len(), x.len()]);
    // SAFETY: the weights stay where and as they are.
    let mut search = unsafe { HeadSearch::new(kernel, weights.as_ptr(), shape) };
    search.panels = with_unit!(kernel, panels_of(&weights, view));
    search.calls = 1;
    search.largest(&x).unwrap()[0].0
}

/// Among 500 weights that are next to nothing, with others in some places.
fn found_among_others<T: Scalar<Acc = f32>>(
    kernel: Kernel,
    others: &[(usize, Vec<f32>)],
    x: &[f32],
    view: View,
) -> u32 {
    let small = |i: usize| if i.is_multiple_of(2) { 1e-5 } else { -1e-5 };
    let mut weights = vec![(0..x.len()).map(small).collect::<Vec<f32>>(); 500];
    others.iter().for_each(|(place, other)| weights[*place].clone_from(other));
    found::<T>(kernel, &weights, x, view)
}

/// Bytes are as wrong as they can be: all errors of a vector have one sign, and are where the other one has its size. The first term
/// makes a step of bytes large, all others are just less than half of it.
#[test]
fn the_largest_product_is_found_where_bytes_are_as_wrong_as_can_be() {
    const TERMS: usize = 65;
    let with_first = |first: f32, others: f32| {
        let mut all = vec![others; TERMS];
        all[0] = first;
        all
    };
    for kernel in Kernel::available() {
        let levels = if kernel == Kernel::Avx2 { 63.0 } else { 127.0 };
        // Of the weight: its bytes are those of its first term, which counts for nothing. The other weight is what its bytes say.
        let step = 1.0 / levels;
        let mut exact = with_first(1.0, 0.0);
        exact[1..30].fill(step);
        let others = [(400, with_first(1.0, 0.49 * step)), (7, exact)];
        let x = with_first(1e-6, 1.0);
        assert_eq!(found_among_others::<f32>(kernel, &others, &x, View::plain(TERMS)), 400, "{kernel:?}");
        assert_eq!(found_among_others::<bf16>(kernel, &others, &x, View::plain(TERMS)), 400, "{kernel:?}");
        // Of x.
        let step = 1.0 / 127.0;
        let x = with_first(1.0, 0.49 * step);
        let others = [(400, with_first(0.0, 1.0)), (7, with_first(29.0 * step, 0.0))];
        assert_eq!(found_among_others::<f32>(kernel, &others, &x, View::plain(TERMS)), 400, "{kernel:?}");
        assert_eq!(found_among_others::<bf16>(kernel, &others, &x, View::plain(TERMS)), 400, "{kernel:?}");
    }
}

/// Products of 12744 and 12760 are both 12736 in bf16, and bytes tell them apart for sure: also where most of both is in the mean.
#[test]
fn of_products_that_are_equal_in_bf16_the_first_is_found() {
    let numbers = |some: [f32; 3]| [&some[..], &[0.0; 62]].concat();
    for kernel in Kernel::available() {
        // Bytes of 63 levels say the same of half as much.
        let of = |last: f32| if kernel == Kernel::Avx2 { [63.0, 50.0, last / 2.0] } else { [127.0, 100.0, last] };
        let x = numbers([0.0, 127.0, 1.0]);
        let others = [(5, numbers(of(44.0))), (200, numbers(of(60.0)))];
        for mean in [0.0, of(0.0)[1]] {
            let view = || {
                let mut view = View::plain(x.len());
                view.mean[1] = mean;
                view
            };
            assert_eq!(found_among_others::<f32>(kernel, &others, &x, view()), 200, "{kernel:?}");
            assert_eq!(found_among_others::<bf16>(kernel, &others, &x, view()), 5, "{kernel:?}");
        }
    }
}

/// Where all products are negative, and the last panel has room for more weights.
#[test]
fn weights_that_are_not_there_are_not_found() {
    let weight = |i| vec![if i == 499 { 0.5 } else { 1.0 + (i % 3) as f32 }; 16];
    let weights: Vec<Vec<f32>> = (0..500).map(weight).collect();
    for kernel in Kernel::available() {
        assert_eq!(found::<f32>(kernel, &weights, &[-1.0; 16], View::plain(16)), 499, "{kernel:?}");
    }
}
