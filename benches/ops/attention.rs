//! attention: two products per visible pair forward, seven backward (five and the scores anew). Of visible pairs only: what a
//! tile computes beyond them counts against it. The mask's lists are there before, as in a model.

use std::rc::Rc;

use criterion::Criterion;
use engine::batch::inputs::Inputs;
use engine::device::Device;
use engine::ops::attention::{KeyParts, Qkv, attention};

use super::lists::Output;
use super::lists::attention::model_case;
use super::measure::{Bench, Work};

pub fn bench(c: &mut Criterion, device: &Device) {
    let of = model_case();
    let (n, s, (heads, _, dim)) = (of.slots.len(), of.tree.end.len(), of.heads);
    let visible = (0..n * s).filter(|pair| of.sees(pair / s, pair % s)).count();
    let flop = |products: usize| Work::Flop(2 * products * visible * heads * dim);
    let case = &of.clone().case();
    Bench { name: "attention", case, work: [flop(2), flop(7)] }.run_prepared(c, device, &|placed| {
        let inputs = Inputs::new(&placed.device, false);
        let (mask, scale) = (Rc::new(of.mask(&inputs)), of.scale);
        inputs.send().unwrap();
        Box::new(move |tape, x| {
            let parts = Some(KeyParts::default()); // as in a model, whose rope adds them up
            let qkv = Qkv { q: x[0].clone(), k: x[1].clone(), v: x[2].clone(), parts };
            Ok(Output::Vars(vec![attention(tape, &qkv, &mask, scale)?]))
        })
    });
}
