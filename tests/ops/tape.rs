//! The tape: gradients arrive, add up, and are missed when they do not; nothing that was captured can be written.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use engine::autograd::{Backward, ParamSpec, Params, Recompute, Tape, Var};
use engine::batch::Example;
use engine::batch::inputs::Inputs;
use engine::batch::mask::{AttentionMask, Placement};
use engine::batch::tree::TokenTree;
use engine::device::{DType, Device, Tensor};
use engine::error::Result;
use engine::host;
use engine::ops::attention::attention;
use engine::ops::cross_entropy::linear_cross_entropy;
use engine::ops::embedding::{TokenIds, embedding};
use engine::ops::geglu::geglu;
use engine::ops::linear::linear;
use engine::ops::residual::{NormPair, residual_rmsnorm};
use engine::ops::rmsnorm::rmsnorm;
use engine::ops::rope::{Heads, NormRope, RotationTable, qkv_norm_rope};

use crate::lists::{params, tensor};
use crate::places::{Place, places};

fn no_params(device: &Device) -> Params {
    params(device, &[], DType::F64, &[]).0
}

#[test]
fn a_parameter_that_got_no_gradient_is_an_error_that_names_it() {
    let device = host::device();
    let (table, params) = params(&device, &[vec![1, 1], vec![1, 1]], DType::F64, &[vec![1.0], vec![2.0]]);
    let mut gradients = table.gradients().unwrap();
    let mut tape = Tape::recording(&device, &mut gradients);
    let x = tape.var(tensor(&device, &[1, 1], DType::F64, &[3.0]));
    let y = linear(&mut tape, &x, &params[0]).unwrap();
    tape.push("seed", move |ctx| {
        let one = tensor(y.value.device(), &[1, 1], DType::F64, &[1.0]);
        ctx.give(&y, one)
    });
    let error = tape.backward().unwrap_err();
    assert_eq!(error.to_string(), "internal: parameter `p1` received no gradient");
    assert_eq!(gradients.values.to_f64(), [3.0, 0.0]);
}

#[test]
fn an_op_that_no_gradient_reaches_gives_none_and_its_parameter_is_missed() {
    let device = host::device();
    let (table, params) = params(&device, &[vec![1, 1]], DType::F64, &[vec![1.0]]);
    let mut gradients = table.gradients().unwrap();
    let mut tape = Tape::recording(&device, &mut gradients);
    let x = tape.var(tensor(&device, &[1, 1], DType::F64, &[3.0]));
    linear(&mut tape, &x, &params[0]).unwrap();
    assert_eq!(tape.backward().unwrap_err().to_string(), "internal: parameter `p0` received no gradient");
}

/// Every op that goes on a tape, one after the other.
fn every_op(tape: &mut Tape, device: &Device) -> Params {
    let shapes = [vec![5, 4], vec![4], vec![6, 4], vec![2], vec![2], vec![4]];
    let values: Vec<Vec<f64>> = shapes.iter().map(|s| vec![0.5; s.iter().product()]).collect();
    let (table, p) = params(device, &shapes, DType::F64, &values);
    let tree =
        TokenTree::from_examples(&[&Example { ids: vec![1, 2, 3], scored: vec![false; 3], origin: String::new() }]);
    let inputs = Inputs::new(device, false);
    let (ids, placement) = (TokenIds::new(&inputs, &tree.ids, 5).unwrap(), Placement::new(&inputs, &tree, tree.rows()));
    let mask = Rc::new(AttentionMask::new(&inputs, &tree, tree.rows(), &placement, None, false));
    inputs.send().unwrap();
    let h = embedding(tape, &ids, &p[0], 2.0).unwrap();
    let x = rmsnorm(tape, &h, &p[1], 1e-6).unwrap();
    let norms = NormPair { weight: p[1].clone(), next_weight: p[5].clone(), eps: 1e-6 };
    let (h, _) = residual_rmsnorm(tape, &h, &x, &norms).unwrap();
    let qkv = linear(tape, &h, &p[2]).unwrap();
    let rotation =
        Rc::new(RotationTable::new(device, 3, 2, 1e4, DType::F64).unwrap().at(placement.positions.clone(), 3));
    let (q_norm, k_norm, heads) = (p[3].clone(), p[4].clone(), Heads { query: 1, kv: 1, dim: 2 });
    let rotated = qkv_norm_rope(tape, &qkv, &NormRope { q_norm, k_norm, rotation, heads, eps: 1e-6 }).unwrap();
    attention(tape, &rotated, &mask, 1.0).unwrap();
    geglu(tape, &qkv).unwrap();
    linear_cross_entropy(tape, &h, &p[0], &[], 1.0).unwrap();
    table
}

#[test]
fn an_inference_tape_records_nothing_and_holds_nothing() {
    let device = host::device();
    let mut tape = Tape::inference(&device);
    assert!(!tape.is_recording() && tape.gradients().is_none());
    let mut table = every_op(&mut tape, &device);
    // A closure that was kept would hold the parameters.
    assert!(table.for_update().parameters.as_mut::<f64>().is_ok());
    let held = Rc::new(());
    let captured = held.clone();
    tape.push("never", move |_| {
        let _kept = &captured;
        Ok(())
    });
    assert_eq!(Rc::strong_count(&held), 1);
    assert_eq!(tape.backward().unwrap_err().to_string(), "internal: backward on a tape that records nothing");
}

#[test]
fn a_recording_tape_holds_what_it_captured_until_it_is_dropped() {
    let device = host::device();
    let table = no_params(&device);
    let mut gradients = table.gradients().unwrap();
    let mut tape = Tape::recording(&device, &mut gradients);
    let mut table = every_op(&mut tape, &device);
    let error = table.for_update().parameters.as_mut::<f64>().unwrap_err();
    assert!(error.to_string().contains("is written while it is shared"), "{error}");
    drop(tape);
    assert!(table.for_update().parameters.as_mut::<f64>().is_ok());
}

#[test]
fn writing_a_tensor_that_somebody_else_holds_is_an_error() {
    let mut x = tensor(&host::device(), &[2, 3], DType::F32, &[1.0; 6]);
    let view = x.view(3, &[3]);
    let error = x.as_mut::<f32>().unwrap_err();
    assert_eq!(error.to_string(), "internal: a tensor of shape [2, 3] is written while it is shared");
    drop(view);
    x.as_mut::<f32>().unwrap()[5] = 7.0;
    assert_eq!(x.view(3, &[3]).as_slice::<f32>(), [1.0, 1.0, 7.0]);
}

/// Where the tape itself is tested: on the host, in f64.
fn on_the_host() -> (Device, DType) {
    (host::device(), DType::F64)
}

/// Runs a closure as the backward of a tape with one value of two elements; returns the gradient it ends with.
fn gradient_after(
    (device, dtype): (Device, DType),
    give: impl FnOnce(&mut Backward<'_>, &Var) -> Result<()> + 'static,
) -> Result<Option<Vec<f64>>> {
    let table = no_params(&host::device());
    let mut gradients = table.gradients().unwrap();
    let mut tape = Tape::recording(&device, &mut gradients);
    let x = tape.var(tensor(&device, &[2], dtype, &[0.0; 2]));
    let caught = Rc::new(RefCell::new(None));
    let (sink, y) = (caught.clone(), x.clone());
    tape.push("catch", move |ctx| {
        *sink.borrow_mut() = ctx.take(&y).map(|g| g.to_f64());
        Ok(())
    });
    tape.push("give", move |ctx| give(ctx, &x));
    tape.backward()?;
    Ok(caught.take())
}

/// A tensor of two numbers, as `x` is.
fn pair(x: &Var, a: f64, b: f64) -> Tensor {
    tensor(x.value.device(), &[2], x.value.dtype(), &[a, b])
}

#[test]
fn a_gradient_that_arrives_twice_is_added() {
    for place in places() {
        let sum = gradient_after((place.device(), place.dtype), |ctx, x| {
            ctx.give(x, pair(x, 1.0, 2.0))?;
            ctx.give(x, pair(x, 10.0, 20.0))?;
            ctx.give(x, pair(x, 100.0, 200.0))
        });
        // In bf16 the second sum is 222 exactly, and 111 too.
        assert_eq!(sum.unwrap(), Some(vec![111.0, 222.0]), "{place:?}");
    }
}

#[test]
fn adding_to_a_gradient_never_changes_a_tensor_that_somebody_else_holds() {
    let calls = Rc::new(Cell::new(0));
    for Place { kind, dtype } in places() {
        let device = Place { kind, dtype }.device();
        let kept = tensor(&device, &[2], dtype, &[1.0, 2.0]);
        // Either of the two may be held elsewhere; the sum is made in the other.
        for first in [true, false] {
            let (held, calls) = (kept.clone(), calls.clone());
            let sum = gradient_after((device.clone(), dtype), move |ctx, x| {
                calls.set(calls.get() + 1);
                let (a, b) = if first { (held, pair(x, 10.0, 20.0)) } else { (pair(x, 10.0, 20.0), held) };
                ctx.give(x, a)?;
                ctx.give(x, b)
            });
            assert_eq!(sum.unwrap(), Some(vec![11.0, 22.0]));
            assert_eq!(kept.to_f64(), [1.0, 2.0]);
        }
    }
    assert_eq!(calls.get(), 2 * places().len());
}

#[test]
fn a_sum_of_two_tensors_that_are_both_held_elsewhere_is_an_error() {
    let held = tensor(&host::device(), &[2], DType::F64, &[1.0, 2.0]);
    let (a, b) = (held.clone(), held.clone());
    let error = gradient_after(on_the_host(), move |ctx, x| {
        ctx.give(x, a)?;
        ctx.give(x, b)
    });
    assert!(error.unwrap_err().report().contains("is written while it is shared"));
    assert_eq!(held.to_f64(), [1.0, 2.0]);
}

#[test]
fn a_value_that_nothing_used_has_no_gradient() {
    assert_eq!(gradient_after(on_the_host(), |_, _| Ok(())).unwrap(), None);
}

#[test]
fn a_gradient_of_another_shape_is_an_error_that_names_the_op() {
    let error =
        gradient_after(on_the_host(), |ctx, x| ctx.give(x, tensor(&host::device(), &[1, 2], DType::F64, &[0.0; 2])))
            .unwrap_err();
    assert_eq!(
        error.report(),
        "error: in the backward of `give`\ncaused by: internal: gradient of shape [1, 2] for a value of shape [2]"
    );
}

#[test]
fn closures_run_in_reverse() {
    let device = host::device();
    let table = no_params(&device);
    let mut gradients = table.gradients().unwrap();
    let mut tape = Tape::recording(&device, &mut gradients);
    let order = Rc::new(RefCell::new(Vec::new()));
    for i in 0..3 {
        let order = order.clone();
        tape.push("note", move |_| {
            order.borrow_mut().push(i);
            Ok(())
        });
    }
    tape.backward().unwrap();
    assert_eq!(order.take(), [2, 1, 0]);
}

#[test]
fn gradients_of_parameters_add_up_over_tapes() {
    let device = host::device();
    let (table, params) = params(&device, &[vec![1, 1]], DType::F64, &[vec![1.0]]);
    let mut gradients = table.gradients().unwrap();
    for x in [3.0, 4.0] {
        let mut tape = Tape::recording(&device, &mut gradients);
        let x = tape.var(tensor(&device, &[1, 1], DType::F64, &[x]));
        let y = linear(&mut tape, &x, &params[0]).unwrap();
        tape.push("seed", move |ctx| {
            let one = tensor(y.value.device(), &[1, 1], DType::F64, &[1.0]);
            ctx.give(&y, one)
        });
        tape.backward().unwrap();
    }
    assert_eq!(gradients.values.to_f64(), [7.0]);
}

#[test]
fn freed_storage_is_used_again() {
    let device = host::device();
    let make = || Tensor::zeros(&device, &[1000], DType::F32).unwrap();
    drop((make(), make()));
    let peak = device.peak_bytes();
    (0..10).for_each(|_| drop((make(), make())));
    assert_eq!(device.peak_bytes(), peak);
    let mut first = make();
    let address = first.as_mut::<f32>().unwrap().as_ptr();
    drop(first);
    assert_eq!(make().as_slice::<f32>().as_ptr(), address);
}

/// The gradients that a linear layer of two fused matrices, a norm and an embedding leave, which hold NaN before.
fn after_backwards(place: &Place, begins: [bool; 3]) -> Vec<f64> {
    let device = place.device();
    let shapes = [("table", &[3, 2][..]), ("first", &[1, 2]), ("second", &[2, 2]), ("norm", &[2])];
    let specs: Vec<ParamSpec> = shapes.iter().map(|(name, shape)| ParamSpec::new((*name).into(), shape)).collect();
    let len = specs.iter().map(ParamSpec::len).sum();
    let values: Vec<f64> = (0..len).map(|i| i as f64 / 8.0).collect();
    let values = tensor(&device, &[len], place.dtype.accumulator(), &values);
    let params = Params::new(&specs, values).unwrap().computed_in(place.dtype).unwrap();
    let mut gradients = params.gradients().unwrap();
    gradients.values = tensor(&device, &[len], place.dtype.accumulator(), &vec![f64::NAN; len]);
    for begins in begins {
        if begins {
            gradients.begin_step();
        }
        let mut tape = Tape::recording(&device, &mut gradients);
        let inputs = Inputs::new(&device, false);
        let ids = TokenIds::new(&inputs, &[2, 0], 3).unwrap();
        inputs.send().unwrap();
        let x = embedding(&mut tape, &ids, &params.get("table"), 1.0).unwrap();
        let x = rmsnorm(&mut tape, &x, &params.get("norm"), 1e-6).unwrap();
        let y = linear(&mut tape, &x, &params.at(&params.fused_handle(&["first", "second"]))).unwrap();
        tape.push("seed", move |ctx| {
            let ones = tensor(y.value.device(), y.value.shape(), y.value.dtype(), &[1.0; 6]);
            ctx.give(&y, ones)
        });
        tape.backward().unwrap();
    }
    gradients.values.to_f64()
}

#[test]
fn the_first_gradient_of_a_step_is_written_over_what_is_there_and_the_next_ones_are_added() {
    for place in places() {
        let once = after_backwards(&place, [true, true, true]);
        let of_each = [0, 6, 12].map(|i| once[i]);
        assert!(once.iter().all(|g| g.is_finite()) && of_each.iter().all(|g| *g != 0.0), "{place:?}: {once:?}");
        assert_eq!(once[2..4], [0.0; 2], "{place:?}: a token that is not there");
        // Two additions, each rounded in f32.
        for (sum, once) in after_backwards(&place, [true, false, false]).iter().zip(&once) {
            let rounding = 2.0 * f64::from(f32::EPSILON) * (3.0 * once).abs();
            assert!((sum - 3.0 * once).abs() <= rounding, "{place:?}: {sum}, {once} thrice");
        }
        assert_eq!(after_backwards(&place, [true, false, true]), once, "{place:?}");
    }
}

/// What passes through a tape whose middle is checkpointed or not: the gradient of x, which is used before the middle, twice in it and after it,
/// by terms of which any other order gives another sum; and how often the middle is run.
fn through_a_part(recompute: Recompute) -> (f64, u32) {
    let device = host::device();
    let table = no_params(&device);
    let mut gradients = table.gradients().unwrap();
    let (runs, caught) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(f64::NAN)));
    let mut tape = Tape::recording(&device, &mut gradients).recomputing(recompute);
    let x = tape.var(tensor(&device, &[1], DType::F32, &[0.0]));
    let (arrival, sink) = (x.arrival(), caught.clone());
    tape.push("catch", move |ctx| {
        sink.set(ctx.take(&arrival).map_or(f64::NAN, |dx| dx.to_f64()[0]));
        Ok(())
    });
    /// An op without a parameter, which gives x this gradient if any arrives at its output.
    fn op(tape: &mut Tape, x: &Var, gradient: f64) -> Var {
        let y = tape.var(x.value.clone());
        let (out, x) = (y.arrival(), x.clone());
        tape.push("op", move |ctx| match ctx.take(&out) {
            Some(_) => ctx.give(&x, tensor(x.value.device(), &[1], DType::F32, &[gradient])),
            None => Ok(()),
        });
        y
    }
    let before = op(&mut tape, &x, 1.0);
    let counted = runs.clone();
    let middle = move |tape: &mut Tape<'_>, [x, before]: [Var; 2]| {
        counted.set(counted.get() + 1);
        let (_unused, a, b) = (op(tape, &x, 7.0), op(tape, &x, 3.0), op(tape, &x, -1e8));
        Ok([a, b, op(tape, &before, 1.0)])
    };
    let outputs = tape.checkpointed("middle", [x.clone(), before], middle).unwrap();
    let after = op(&mut tape, &x, 1e8);
    tape.push("seed", move |ctx| {
        outputs.iter().chain([&after]).try_for_each(|y| ctx.give(y, tensor(&host::device(), &[1], DType::F32, &[1.0])))
    });
    tape.backward().unwrap();
    (caught.get(), runs.get())
}

#[test]
fn a_part_that_is_run_again_adds_the_same_terms_in_the_same_order() {
    // ((1e8 - 1e8) + 3) + 1; in f32 3 is lost where it is added to -1e8 first.
    assert_eq!(through_a_part(Recompute::Nothing), (4.0, 1));
    assert_eq!(through_a_part(Recompute::Selective), (4.0, 2));
    assert_eq!(through_a_part(Recompute::Full), (4.0, 2));
}

#[test]
fn a_tape_that_recomputes_holds_the_inputs_of_a_part_and_what_the_part_itself_holds() {
    let device = host::device();
    let table = no_params(&device);
    for recompute in [Recompute::Nothing, Recompute::Selective, Recompute::Full] {
        let checkpoints = recompute != Recompute::Nothing;
        let mut gradients = table.gradients().unwrap();
        let mut tape = Tape::recording(&device, &mut gradients).recomputing(recompute);
        let input = tape.var(tensor(&device, &[1, 2], DType::F64, &[1.0, 2.0]));
        let (held, inner) = (Rc::new(()), Rc::new(RefCell::new(None)));
        let (own, seen) = (held.clone(), inner.clone());
        let [output] = tape
            .checkpointed("part", [input.clone()], move |tape, [x]| {
                let _own = &own;
                let y = geglu(tape, &x)?;
                *seen.borrow_mut() = Some(y.value.clone());
                Ok([linear_of_ones(tape, &y)])
            })
            .unwrap();
        assert_eq!(Rc::strong_count(&held), 1 + usize::from(checkpoints), "the part");
        let inner = inner.take().unwrap();
        assert_eq!(inner.is_unique(), checkpoints, "an activation within");
        assert!(!input.value.is_unique(), "the input");
        assert!(output.value.is_unique(), "the output is kept by whom it is handed to");
    }
}

/// An op whose backward holds its input.
fn linear_of_ones(tape: &mut Tape, x: &Var) -> Var {
    let y = tape.var(tensor(x.value.device(), &[1, 1], DType::F64, &[1.0]));
    let x = x.clone();
    tape.push("ones", move |_| {
        let _kept = &x;
        Ok(())
    });
    y
}

#[test]
fn a_part_that_no_gradient_reaches_is_not_run_again() {
    let device = host::device();
    let table = no_params(&device);
    let mut gradients = table.gradients().unwrap();
    let runs = Rc::new(Cell::new(0));
    let part = |runs: Rc<Cell<u32>>| {
        move |tape: &mut Tape<'_>, [x]: [Var; 1]| {
            runs.set(runs.get() + 1);
            Ok([geglu(tape, &x)?])
        }
    };
    let mut tape = Tape::recording(&device, &mut gradients).recomputing(Recompute::Full);
    let x = tape.var(tensor(&device, &[1, 2], DType::F64, &[1.0, 2.0]));
    tape.checkpointed("part", [x], part(runs.clone())).unwrap();
    tape.backward().unwrap();
    assert_eq!(runs.get(), 1);
    let mut tape = Tape::inference(&device).recomputing(Recompute::Full);
    let x = tape.var(tensor(&device, &[1, 2], DType::F64, &[1.0, 2.0]));
    tape.checkpointed("part", [x], part(runs.clone())).unwrap();
    assert_eq!((runs.get(), Rc::strong_count(&runs)), (2, 1));
}

/// How often an op of a part makes its two results, which it asks the tape to keep, and what the second run of the part gives of them.
fn what_is_kept(recompute: Recompute) -> (u32, Vec<f64>) {
    let device = host::device();
    let table = no_params(&device);
    let mut gradients = table.gradients().unwrap();
    let (made, seen) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
    let mut tape = Tape::recording(&device, &mut gradients).recomputing(recompute);
    let x = tape.var(tensor(&device, &[1], DType::F64, &[1.0]));
    let (count, values) = (made.clone(), seen.clone());
    let part = move |tape: &mut Tape<'_>, [x]: [Var; 1]| {
        let expensive = |value: f64| {
            count.set(count.get() + 1);
            tensor(x.value.device(), &[1], DType::F64, &[value])
        };
        assert_eq!(tape.is_for_backward(), tape.is_recording() || recompute != Recompute::Nothing);
        assert_eq!(tape.keeps_results(), tape.is_recording() || recompute == Recompute::Selective);
        let [a, b] = tape.kept(|| Ok([expensive(2.0), expensive(3.0)]))?;
        let [c] = tape.kept(|| Ok([expensive(4.0)]))?;
        *values.borrow_mut() = [&a, &b, &c].iter().flat_map(|value| value.to_f64()).collect();
        Ok([tape.var(c)])
    };
    let [y] = tape.checkpointed("part", [x], part).unwrap();
    tape.push("seed", move |ctx| ctx.give(&y, tensor(&host::device(), &[1], DType::F64, &[1.0])));
    tape.backward().unwrap();
    (made.get(), seen.take())
}

#[test]
fn what_is_expensive_is_made_once_where_a_part_is_run_again_selectively() {
    let values = vec![2.0, 3.0, 4.0];
    assert_eq!(what_is_kept(Recompute::Nothing), (3, values.clone()));
    assert_eq!(what_is_kept(Recompute::Selective), (3, values.clone()));
    // The last one is held by whoever has the part's output.
    assert_eq!(what_is_kept(Recompute::Full), (5, values));
}

#[test]
fn an_error_in_a_part_that_is_run_again_names_part_and_op() {
    let device = host::device();
    let table = no_params(&device);
    let mut gradients = table.gradients().unwrap();
    let mut tape = Tape::recording(&device, &mut gradients).recomputing(Recompute::Full);
    let x = tape.var(tensor(&device, &[1], DType::F64, &[1.0]));
    let part = |tape: &mut Tape<'_>, [x]: [Var; 1]| {
        let y = tape.var(x.value.clone());
        tape.push("wrong", move |ctx| ctx.give(&x, tensor(&host::device(), &[2], DType::F64, &[0.0; 2])));
        Ok([y])
    };
    let [y] = tape.checkpointed("part", [x], part).unwrap();
    tape.push("seed", move |ctx| ctx.give(&y, tensor(&host::device(), &[1], DType::F64, &[1.0])));
    assert_eq!(
        tape.backward().unwrap_err().report(),
        "error: in the backward of `part`\ncaused by: in the backward of `wrong`\ncaused by: internal: gradient of \
         shape [2] for a value of shape [1]"
    );
}

#[test]
fn a_frozen_layer_does_not_hold_its_input() {
    let device = host::device();
    for is_frozen in [false, true] {
        let (mut table, _) = params(&device, &[vec![1, 1]], DType::F64, &[vec![1.0]]);
        if is_frozen {
            table = table.frozen_in(DType::F64).unwrap();
        }
        let trained = no_params(&device);
        let mut gradients = trained.gradients().unwrap();
        let mut tape = Tape::recording(&device, &mut gradients);
        let x = tape.var(tensor(&device, &[1, 1], DType::F64, &[3.0]));
        linear(&mut tape, &x, &table.get("p0")).unwrap();
        assert_eq!(x.value.is_unique(), is_frozen);
    }
}
