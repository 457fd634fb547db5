//! attention: softmax(scale q k^T) v over token trees of every shape, grouped heads, windows, and decoding.

use std::ffi::c_void;
use std::ptr::null_mut;

use engine::autograd::Tape;
use engine::batch::inputs::Inputs;
use engine::batch::tree::TokenTree;
use engine::device::bindings::{engine_attention, engine_heads};
use engine::device::driver::engine_dtype;
use engine::device::{DType, Device};
use engine::launch;

use crate::checks::{check_close, check_formula, check_gradients, check_place, check_precision, check_twice_plain};
use crate::guarded;
use crate::lists::attention::{Attention, decoded, many_heads, prompts, trained};
use crate::lists::trees::{Shape, fill_reserved, rows, tree, tree_of};
use crate::lists::{Case, Output, Pass, Values, catch, gradients, params, random, rng, round, seed, tensor};
use crate::places::{Kind, Place, places};

fn cases() -> Vec<Case> {
    trained().into_iter().map(Attention::case).collect()
}

#[test]
fn the_gradient_equals_central_differences() {
    // A case runs thousands of times, and scores of hundreds have slopes that no step suits.
    let small = |case: &Attention| case.slots.len() * case.heads.0 * case.heads.2 <= 600 && case.scale < 100.0;
    let small: Vec<Case> = trained().into_iter().filter(small).map(Attention::case).collect();
    assert!(small.len() >= 12);
    check_gradients(&small);
}

#[test]
fn the_values_equal_the_formula() {
    check_formula(&cases());
}

#[test]
fn the_values_of_decoded_rows_equal_the_formula() {
    check_formula(&decoded().into_iter().chain(prompts()).map(Attention::case).collect::<Vec<_>>());
}

#[test]
fn f32_on_the_host_is_as_precise_as_f32_can_be() {
    // Where every row sees itself alone dq and dk are 0: there is nothing to be relative to.
    let several = |case: &Attention| case.slots.len() > 1 && case.window != Some(1);
    check_precision(&trained().into_iter().filter(several).map(Attention::case).collect::<Vec<_>>());
}

#[test]
fn the_gradients_equal_the_formula() {
    for attention in trained() {
        let case = attention.clone().case();
        let values = case.values(DType::F64);
        let pass = case.backward(&guarded::host(), DType::F64, &values, 0.0);
        let [_, gradients @ ..] = formula(&attention, &values, &pass, DType::F64);
        // As many roundings as `check_formula` allows for.
        check_close(&case.name, &pass.gradients, &gradients, 4.0 * (case.terms + 8) as f64 * f64::EPSILON);
    }
}

#[test]
fn every_device_and_type_is_as_precise_as_plain_rounding() {
    for place in places() {
        // In f32 large scores have a bound of their own: see below.
        for attention in trained().into_iter().filter(|case| place.dtype != DType::F32 || case.scale < 100.0) {
            check_place(&attention.clone().case(), place, |plain, values| rounded_inside(&attention, plain, values));
        }
    }
}

#[test]
fn many_heads_are_as_precise_as_plain_rounding() {
    // In f32 the kernels are the same for any number of heads.
    for place in places().into_iter().filter(|place| place.dtype == DType::Bf16) {
        for attention in many_heads() {
            check_place(&attention.clone().case(), place, |plain, values| rounded_inside(&attention, plain, values));
        }
    }
}

/// dq, dk and dv from q, k, v and do.
fn backward(attention: Attention, place: Place, [q, k, v, d_o]: [Vec<f64>; 4]) -> Vec<Vec<f64>> {
    let (device, case) = (place.device(), attention.case());
    let (table, none) = params(&device, &[], place.dtype, &[]);
    let mut gradients = gradients(&table, 0.0);
    let mut tape = Tape::recording(&device, &mut gradients);
    let vars = case.place(&mut tape, place.dtype, &[q, k, v]);
    let caught = catch(&mut tape, &vars);
    let Output::Vars(o) = (case.run)(&mut tape, &vars, &none).unwrap() else { panic!("attention gives o") };
    seed(&mut tape, o, place.dtype, vec![d_o]);
    tape.backward().unwrap();
    caught.take()
}

/// dq has a launch of its own that computes delta, or one with dk and dv behind one that does.
#[cfg(engine_emulated)]
#[test]
fn a_head_among_many_gets_the_bits_that_it_gets_alone() {
    let place = Place { kind: Kind::Emulated, dtype: DType::Bf16 };
    for attention in many_heads() {
        let (h, kv, dim) = attention.heads;
        let (n, group, mut rng) = (attention.slots.len(), h / kv, rng(9));
        let x = [h, kv, kv, h].map(|heads| random(place.dtype, &mut rng, n * heads * dim, 1.0));
        let all = backward(attention.clone(), place, x.clone());
        for head in [0, kv - 1] {
            // What belongs to this kv head of a tensor of `heads` heads.
            let own = |x: &Vec<f64>| -> Vec<f64> {
                let width = x.len() / n / kv;
                pick(x, width, &(0..n).map(|row| row * kv + head).collect::<Vec<_>>())
            };
            let alone = Attention { heads: (group, 1, dim), ..attention.clone() };
            let expected = backward(alone, place, x.each_ref().map(own));
            assert!(all.iter().map(own).eq(expected), "kv head {head} of {}", attention.name);
        }
    }
}

fn formula(attention: &Attention, values: &Values, pass: &Pass, dtype: DType) -> [Vec<f64>; 4] {
    let [q, k, v] = [0, 1, 2].map(|i| &values.all[i][..]);
    attention.formula([q, k, v, &pass.coefficients[0]], dtype)
}

/// What plain rounding gives: scores, p, o and ds are rounded where they are stored or go to tensor cores, which costs more
/// than the rounding of a result.
fn rounded_inside(attention: &Attention, plain: Pass, values: &Values) -> Pass {
    let [exact, rounded] = [DType::F64, values.held].map(|dtype| formula(attention, values, &plain, dtype));
    let further = |i: usize, plain: &[f64]| further(&exact[i], plain, &rounded[i]);
    let gradients = plain.gradients.iter().enumerate().map(|(i, plain)| further(i + 1, plain)).collect();
    Pass { outputs: vec![further(0, &plain.outputs[0])], gradients, ..plain }
}

/// Each element of the one that is further from what is exact.
fn further(exact: &[f64], a: &[f64], b: &[f64]) -> Vec<f64> {
    let each = exact.iter().zip(a).zip(b);
    each.map(|((exact, a), b)| if (b - exact).abs() > (a - exact).abs() { *b } else { *a }).collect()
}

#[test]
fn large_scores_in_f32_are_as_precise_as_their_rounding() {
    // A score s is off by about eps * |s|, and the power of it by as much relative to itself: whose rounding is larger at the
    // worst element, the host's or the kernel's, is chance.
    for attention in trained().into_iter().filter(|case| case.scale >= 100.0) {
        let case = attention.clone().case();
        let values = case.values(DType::F32);
        let exact = case.backward(&guarded::host(), DType::F64, &values, 0.0);
        let largest = attention.scale * attention.heads.2 as f64 * case.amplitude * case.amplitude;
        for place in places().into_iter().filter(|place| place.dtype == DType::F32) {
            let got = case.backward(&place.device(), DType::F32, &values, 0.0);
            let tolerance = 2.0 * f64::from(f32::EPSILON) * largest;
            check_close(&format!("{place:?}, o"), &got.outputs, &exact.outputs, tolerance);
            check_close(&format!("{place:?}, gradients"), &got.gradients, &exact.gradients, tolerance);
        }
    }
}

#[test]
fn scores_of_thousands_neither_overflow_nor_vanish() {
    let case = Attention::of(tree(Shape::Random(4), 67), (4, 2, 4), Some(20), 3000.0).case();
    for place in places() {
        let pass = case.backward(&place.device(), place.dtype, &case.values(place.dtype), 0.0);
        assert!(pass.outputs.iter().chain(&pass.gradients).flatten().all(|x| x.is_finite()), "{place:?}");
    }
    check_formula(&[case]);
}

#[test]
fn tiles_that_nobody_sees_change_nothing() {
    let few = Attention::of(tree(Shape::Random(5), 203), (2, 1, 8), Some(9), 1.0);
    let all = Attention { all_tiles: true, ..few.clone() };
    let listed = |attention: &Attention| {
        let inputs = Inputs::new(&engine::host::device(), false);
        attention.mask(&inputs);
        inputs.len()
    };
    assert!(listed(&few) < listed(&all));
    let (few, all) = (few.case(), all.case());
    for place in places() {
        // The host's sums have more terms of 0, and so another order.
        let dtype = if place.kind == Kind::Host { DType::F64 } else { place.dtype };
        let [few, all] = [&few, &all].map(|case| case.backward(&place.device(), dtype, &case.values(dtype), 0.0));
        if place.kind == Kind::Host {
            check_close("with all tiles: o", &all.outputs, &few.outputs, 1e-14);
            check_close("with all tiles: gradients", &all.gradients, &few.gradients, 1e-14);
        } else {
            assert!(few == all, "{place:?}");
        }
    }
}

/// o in f64 on the host, from q, k and v.
fn run(attention: Attention, x: [Vec<f64>; 3]) -> Vec<f64> {
    let values = Values { held: DType::F64, all: x.into() };
    attention.case().forward(&engine::host::device(), DType::F64, &values).remove(0)
}

fn pick(x: &[f64], width: usize, rows: &[usize]) -> Vec<f64> {
    rows.iter().flat_map(|&row| &x[row * width..][..width]).copied().collect()
}

#[test]
fn a_tree_gives_each_example_what_it_gets_alone() {
    let heads @ (h, kv, dim) = (4, 2, 3);
    for (shape, n, window) in [
        (Shape::Comb, 67, None),
        (Shape::Random(5), 113, Some(9)),
        (Shape::Random(6), 203, None),
        (Shape::Rows(30), 113, Some(40)),
    ] {
        let (rows, tree, mut rng) = (rows(shape, n), tree(shape, n), rng(7));
        let x = [n * h * dim, n * kv * dim, n * kv * dim].map(|len| random(DType::F64, &mut rng, len, 1.0));
        let o = run(Attention::of(tree.clone(), heads, window, 1.0), x.clone());
        for (row, &last) in rows.iter().zip(&tree.last_rows) {
            let own: Vec<usize> = (0..=last as usize).filter(|&j| last < tree.end[j]).collect();
            assert_eq!(own.iter().map(|&j| tree.ids[j]).collect::<Vec<u32>>(), *row);
            let alone = [pick(&x[0], h * dim, &own), pick(&x[1], kv * dim, &own), pick(&x[2], kv * dim, &own)];
            let expected = run(Attention::of(tree_of(std::slice::from_ref(row)), heads, window, 1.0), alone);
            // The same terms in another order: a few units in the last place.
            check_close(&format!("{shape:?} {row:?}"), &[pick(&o, h * dim, &own)], &[expected], 1e-14);
        }
    }
}

/// Prompts with shared prefixes, equal prompts and a prompt that is a prefix of others, each continued by as many tokens
/// as `made` says.
fn continued(made: &[usize]) -> (Vec<&'static [u32]>, TokenTree) {
    let prompts: Vec<&[u32]> = vec![&[2, 5, 6, 7], &[2, 5], &[2, 5, 6, 7], &[2, 9, 9, 9, 9, 9, 9, 9], &[3]];
    let mut tree = TokenTree::with_reserve(&prompts, 20);
    for (example, &made) in made.iter().enumerate() {
        for index in 0..made {
            fill_reserved(&mut tree, example, index, (prompts[example].len() + index) as u32);
        }
    }
    (prompts, tree)
}

#[test]
fn decoding_over_reserved_slots_equals_the_whole_sequence_computed_alone() {
    let (heads @ (h, kv, dim), made) = ((4, 1, 3), [3, 1, 20, 17, 2]);
    let (prompts, tree) = continued(&made);
    let mut rng = rng(8);
    let lengths = [made.len() * h * dim, tree.end.len() * kv * dim, tree.end.len() * kv * dim];
    let x = lengths.map(|len| random(DType::F64, &mut rng, len, 1.0));
    for window in [None, Some(4), Some(11)] {
        let decoding = Attention::decoding(tree.clone(), &made, heads, window);
        let (scale, slots) = (decoding.scale, decoding.slots.clone());
        let o = run(decoding, x.clone());
        for (row, &slot) in slots.iter().enumerate() {
            let example = (0..made.len()).find(|&e| tree.reserved[e] + made[e] as u32 - 1 == slot).unwrap();
            let own: Vec<usize> = (0..=slot as usize).filter(|&j| slot < tree.end[j]).collect();
            let length = prompts[example].len() + made[example];
            assert_eq!(own.len(), length);
            let mut q = vec![0.0; length * h * dim];
            q[(length - 1) * h * dim..].copy_from_slice(&pick(&x[0], h * dim, &[row]));
            let alone = [q, pick(&x[1], kv * dim, &own), pick(&x[2], kv * dim, &own)];
            let ids: Vec<u32> = (0..length as u32).collect();
            let expected = run(Attention::of(tree_of(&[ids]), heads, window, scale), alone);
            let last = expected[(length - 1) * h * dim..].to_vec();
            check_close(&format!("example {example}"), &[pick(&o, h * dim, &[row])], &[last], 1e-14);
        }
    }
}

/// o with NaN in the slots of k and v that `hidden` names.
fn check_output(attention: &Attention, place: Place, hidden: impl Fn(usize) -> bool) {
    let case = attention.clone().case();
    let name = format!("{} in {:?} on {:?}", case.name, place.dtype, place.kind);
    let values = case.values(place.dtype);
    let mut poisoned = values.clone();
    for x in &mut poisoned.all[1..] {
        let slots = x.chunks_mut(attention.heads.1 * attention.heads.2).enumerate();
        slots.filter(|(slot, _)| hidden(*slot)).for_each(|(_, row)| row.fill(f64::NAN));
    }
    let got = place.twice(&name, || case.forward(&place.device(), place.dtype, &poisoned));
    let plain = case.forward(&guarded::host(), DType::F32, &values);
    let nothing = vec![0.0; values.all[0].len()];
    let x = [&values.all[0], &values.all[1], &values.all[2], &nothing].map(|x| &x[..]);
    let [[exact, ..], [rounded, ..]] = [DType::F64, place.dtype].map(|dtype| attention.formula(x, dtype));
    let plain: Vec<f64> = plain[0].iter().map(|&x| round(place.dtype, x)).collect();
    let plain = if place.dtype == DType::Bf16 { further(&exact, &plain, &rounded) } else { plain };
    check_twice_plain(&name, &got[0], &exact, &plain, 0.0);
}

#[test]
fn decoding_is_as_precise_as_plain_rounding_and_what_lies_in_free_slots_does_not_matter() {
    for attention in decoded() {
        let end = &attention.tree.end;
        // The kernels' products take steps of 16 slots, and those of which no row sees one are left out.
        let step_is_seen = |step: usize| {
            let mut slots = step * 16..(step * 16 + 16).min(end.len());
            slots.any(|j| (0..attention.slots.len()).any(|row| attention.sees(row, j)))
        };
        let seen: Vec<bool> = (0..end.len().div_ceil(16)).map(step_is_seen).collect();
        for place in places() {
            let skipped = |slot: usize| place.kind != Kind::Host && !seen[slot / 16];
            check_output(&attention, place, |slot| end[slot] == 0 || skipped(slot));
        }
    }
}

#[test]
fn prompts_are_read_past_free_slots() {
    for attention in prompts() {
        for place in places() {
            check_output(&attention, place, |slot| attention.tree.end[slot] == 0);
        }
    }
}

/// What a backward over two rows of (4, 2, 4) says after `change`.
fn refusal(device: &Device, change: impl Fn(&mut engine_attention)) -> String {
    let [values, arrays] = [DType::F32, DType::U32].map(|dtype| match dtype {
        DType::U32 => engine::device::Tensor::from_slice(device, &[64], &[0u32; 64]),
        _ => tensor(device, &[4096], dtype, &[0.0; 4096]),
    });
    let (x, list): (*mut c_void, *const u32) = (values.address().cast_mut(), arrays.address().cast());
    let mut attention = engine_attention {
        slots: list,
        positions: list,
        end: list,
        key_positions: list,
        key_starts: list,
        key_tiles: list,
        query_starts: list,
        query_tiles: list,
        arrived: null_mut(),
        window: u32::MAX,
        n: 2,
        s: 2,
        heads: engine_heads { query: 4, kv: 2, dim: 4 },
        heads_at_once: 1,
        scale: 1.0,
        dtype: engine_dtype(DType::F32),
    };
    change(&mut attention);
    let (driver, n, s) = (device.driver(), attention.n, attention.s);
    // SAFETY: refused before anything is written, and there is room for what is asked.
    let call =
        unsafe { launch!(driver, attention_backward { n, s }(x, x, x, x, x, x, x, x, x, x, &attention, null_mut())) };
    call.expect_err("a refusal").to_string()
}

#[test]
fn what_attention_cannot_do_is_said() {
    for place in places().into_iter().filter(|place| place.dtype == DType::F32) {
        let device = place.device();
        let heads = refusal(&device, |attention| attention.heads.query = 3);
        assert!(heads.ends_with("3 query heads on 2 kv heads"), "{heads}");
        let rows = refusal(&device, |attention| attention.s = 3);
        assert!(rows.contains("a backward is over all rows"), "{rows}");
        if place.kind != Kind::Host {
            assert!(rows.contains("2 rows of 3 slots"), "{rows}");
            let dim = refusal(&device, |attention| attention.heads.dim = 257);
            assert!(dim.ends_with("a head_dim of 257; attention knows 1 to 256"), "{dim}");
            for heads in [0, 3] {
                let said = refusal(&device, |attention| attention.heads_at_once = heads);
                assert!(said.ends_with(&format!("sums over {heads} heads at once of a group of 2")), "{said}");
            }
        } else {
            let parts = refusal(&device, |_| ());
            assert!(parts.contains("the host gives no parts"), "{parts}");
        }
    }
}

#[test]
fn a_window_beyond_any_position_is_no_window() {
    let case = |window| Attention::of(tree(Shape::Comb, 67), (1, 1, 2), window, 1.0).case();
    let values = case(None).values(DType::F32);
    for place in places().into_iter().filter(|place| place.dtype == DType::F32) {
        let o = |window| case(window).forward(&place.device(), DType::F32, &values);
        let all = o(None);
        for window in [1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, usize::MAX] {
            assert!(o(Some(window)) == all, "{place:?}, window {window}");
        }
    }
}

#[test]
fn no_rows_are_none() {
    let none = Attention::of(TokenTree::default(), (4, 1, 4), None, 1.0).case();
    for place in places() {
        let pass = none.backward(&place.device(), place.dtype, &none.values(place.dtype), 0.0);
        assert!(pass.outputs.iter().chain(&pass.gradients).all(Vec::is_empty), "{place:?}");
    }
}
