//! rope: forward reads and writes a row of qkv; backward reads it and its gradients and writes one. The rotation table is
//! there before, as in a model.

use criterion::Criterion;
use engine::autograd::Tape;
use engine::device::Device;
use engine::ops::rope::qkv_norm_rope;

use super::lists::Output;
use super::lists::rope::model_case;
use super::measure::{Bench, values};

pub fn bench(c: &mut Criterion, device: &Device) {
    let rope = model_case();
    let case = &rope.clone().case();
    let n: usize = case.inputs[0].iter().product();
    let bench = Bench { name: "qkv_norm_rope", case, work: [values(2 * n), values(3 * n)] };
    bench.run_prepared(c, device, &|placed| {
        let (how, _) = rope.how(&Tape::inference(&placed.device), &placed.params, &[]).unwrap();
        Box::new(move |tape, x| {
            let out = qkv_norm_rope(tape, &x[0], &how)?;
            Ok(Output::Vars(vec![out.q, out.k, out.v]))
        })
    });
}
