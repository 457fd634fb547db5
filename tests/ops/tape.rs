//! The tape: gradients arrive, add up, and are missed when they do not; nothing that was captured can be written.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use engine::autograd::Params;
use engine::autograd::{Tape, Var};
use engine::batch::mask::AttentionMask;
use engine::device::{DType, Device, Tensor};
use engine::ops::attention::attention;
use engine::ops::cross_entropy::linear_cross_entropy;
use engine::ops::embedding::embedding;
use engine::ops::geglu::geglu;
use engine::ops::linear::linear;
use engine::ops::residual::residual_rmsnorm;
use engine::ops::rmsnorm::rmsnorm;
use engine::ops::rope::{Heads, Rotation, qkv_norm_rope};

use crate::cases::{params, tensor};
use crate::trees::{Shape, tree};

fn no_params(device: &Device) -> Params {
    params::<f64>(device, &[], &[]).0
}

#[test]
fn a_parameter_that_got_no_gradient_is_an_error_that_names_it() {
    let device = Device::cpu();
    let (table, params) = params::<f64>(&device, &[vec![1, 1], vec![1, 1]], &[vec![1.0], vec![2.0]]);
    let mut gradients = table.gradients().unwrap();
    let mut tape = Tape::recording(&device, &mut gradients);
    let x = tape.var(tensor::<f64>(&device, &[1, 1], &[3.0]));
    let y = linear(&mut tape, &x, &params[0]).unwrap();
    tape.push("seed", move |ctx| {
        let one = tensor::<f64>(y.value.device(), &[1, 1], &[1.0]);
        ctx.give(&y, one)
    });
    let error = tape.backward().unwrap_err();
    assert_eq!(error.to_string(), "internal: parameter `p1` received no gradient");
    assert_eq!(gradients.values.to_f64(), [3.0, 0.0]);
}

#[test]
fn an_op_that_no_gradient_reaches_gives_none_and_its_parameter_is_missed() {
    let device = Device::cpu();
    let (table, params) = params::<f64>(&device, &[vec![1, 1]], &[vec![1.0]]);
    let mut gradients = table.gradients().unwrap();
    let mut tape = Tape::recording(&device, &mut gradients);
    let x = tape.var(tensor::<f64>(&device, &[1, 1], &[3.0]));
    linear(&mut tape, &x, &params[0]).unwrap();
    assert_eq!(tape.backward().unwrap_err().to_string(), "internal: parameter `p0` received no gradient");
}

/// Every op that goes on a tape, one after the other.
fn every_op(tape: &mut Tape, device: &Device) -> Params {
    let shapes = [vec![5, 4], vec![4], vec![6, 4], vec![2], vec![2]];
    let values: Vec<Vec<f64>> = shapes.iter().map(|s| vec![0.5; s.iter().product()]).collect();
    let (table, p) = params::<f64>(device, &shapes, &values);
    let h = embedding(tape, &[1u32, 2, 3].as_slice().into(), &p[0], 2.0).unwrap();
    let x = rmsnorm(tape, &h, &p[1], 1e-6).unwrap();
    let h = residual_rmsnorm(tape, &h, &x, &p[1], 1e-6).unwrap();
    let qkv = linear(tape, &h, &p[2]).unwrap();
    let rotation = Rc::new(Rotation::new(device, &[0, 1, 2], 2, 1e4, DType::F64));
    let heads = Heads { query: 1, kv: 1, dim: 2 };
    let (q, k, v) = qkv_norm_rope(tape, &qkv, (&p[3], &p[4]), &rotation, heads, 1e-6).unwrap();
    let mask = Rc::new(AttentionMask::new(&tree(Shape::Row, 3), None));
    let o = attention(tape, (&q, &k, &v), &mask, 1.0).unwrap();
    geglu(tape, &o).unwrap();
    linear_cross_entropy(tape, &h, &p[0], &[], 1.0).unwrap();
    table
}

#[test]
fn an_inference_tape_records_nothing_and_holds_nothing() {
    let device = Device::cpu();
    let mut tape = Tape::inference(&device);
    assert!(!tape.is_recording() && tape.gradients().is_none());
    let mut table = every_op(&mut tape, &device);
    // A closure that was kept would hold the parameters.
    assert!(table.values.as_mut::<f64>().is_ok());
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
    let device = Device::cpu();
    let table = no_params(&device);
    let mut gradients = table.gradients().unwrap();
    let mut tape = Tape::recording(&device, &mut gradients);
    let mut table = every_op(&mut tape, &device);
    let error = table.values.as_mut::<f64>().unwrap_err();
    assert!(error.to_string().contains("is written while it is shared"), "{error}");
    drop(tape);
    assert!(table.values.as_mut::<f64>().is_ok());
}

#[test]
fn writing_a_tensor_that_somebody_else_holds_is_an_error() {
    let mut x = tensor::<f32>(&Device::cpu(), &[2, 3], &[1.0; 6]);
    let view = x.view(3, &[3]);
    let error = x.as_mut::<f32>().unwrap_err();
    assert_eq!(error.to_string(), "internal: a tensor of shape [2, 3] is written while it is shared");
    drop(view);
    x.as_mut::<f32>().unwrap()[5] = 7.0;
    assert_eq!(x.view(3, &[3]).as_slice::<f32>(), [1.0, 1.0, 7.0]);
}

/// Runs closures as the backward of a tape with one value of two elements; returns the gradient it ends with.
fn gradient_after(
    give: impl FnOnce(&mut engine::autograd::Backward<'_>, &Var) -> engine::error::Result<()> + 'static,
) -> engine::error::Result<Option<Vec<f64>>> {
    let device = Device::cpu();
    let table = no_params(&device);
    let mut gradients = table.gradients().unwrap();
    let mut tape = Tape::recording(&device, &mut gradients);
    let x = tape.var(tensor::<f64>(&device, &[2], &[0.0; 2]));
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

fn pair(a: f64, b: f64) -> Tensor {
    tensor::<f64>(&Device::cpu(), &[2], &[a, b])
}

#[test]
fn a_gradient_that_arrives_twice_is_added() {
    let sum = gradient_after(|ctx, x| {
        ctx.give(x, pair(1.0, 2.0))?;
        ctx.give(x, pair(10.0, 20.0))?;
        ctx.give(x, pair(100.0, 200.0))
    });
    assert_eq!(sum.unwrap(), Some(vec![111.0, 222.0]));
}

#[test]
fn adding_to_a_gradient_never_changes_a_tensor_that_somebody_else_holds() {
    // Either of the two may be held elsewhere; the sum is made in the other.
    let (kept, outer) = (pair(1.0, 2.0), Rc::new(Cell::new(0)));
    for first in [true, false] {
        let (held, copy, calls) = (kept.clone(), kept.clone(), outer.clone());
        let sum = gradient_after(move |ctx, x| {
            calls.set(calls.get() + 1);
            let (a, b) = if first { (held, pair(10.0, 20.0)) } else { (pair(10.0, 20.0), held) };
            ctx.give(x, a)?;
            ctx.give(x, b)
        });
        assert_eq!(sum.unwrap(), Some(vec![11.0, 22.0]));
        assert_eq!(copy.to_f64(), [1.0, 2.0]);
    }
    assert_eq!(outer.get(), 2);
}

#[test]
fn a_value_that_nothing_used_has_no_gradient() {
    assert_eq!(gradient_after(|_, _| Ok(())).unwrap(), None);
}

#[test]
fn a_gradient_of_another_shape_is_an_error_that_names_the_op() {
    let error = gradient_after(|ctx, x| ctx.give(x, tensor::<f64>(&Device::cpu(), &[1, 2], &[0.0; 2]))).unwrap_err();
    assert_eq!(
        error.report(),
        "error: in the backward of `give`\ncaused by: internal: gradient of shape [1, 2] for a value of shape [2]"
    );
}

#[test]
fn closures_run_in_reverse() {
    let device = Device::cpu();
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
    let device = Device::cpu();
    let (table, params) = params::<f64>(&device, &[vec![1, 1]], &[vec![1.0]]);
    let mut gradients = table.gradients().unwrap();
    for x in [3.0, 4.0] {
        let mut tape = Tape::recording(&device, &mut gradients);
        let x = tape.var(tensor::<f64>(&device, &[1, 1], &[x]));
        let y = linear(&mut tape, &x, &params[0]).unwrap();
        tape.push("seed", move |ctx| {
            let one = tensor::<f64>(y.value.device(), &[1, 1], &[1.0]);
            ctx.give(&y, one)
        });
        tape.backward().unwrap();
    }
    assert_eq!(gradients.values.to_f64(), [7.0]);
}

#[test]
fn freed_storage_is_used_again() {
    let device = Device::cpu();
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
