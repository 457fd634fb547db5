//! embedding: forward reads and writes a row per token; backward reads one and adds it to the table's gradient in f32. The
//! ids are on the device before.

use criterion::Criterion;
use engine::batch::inputs::Inputs;
use engine::device::Device;
use engine::ops::embedding::{TokenIds, embedding};

use super::lists::Output;
use super::lists::embedding::{MODEL, ids, model_case};
use super::measure::{Bench, Work, values};

pub fn bench(c: &mut Criterion, device: &Device) {
    let (n, v, d) = MODEL;
    let work = [values(2 * n * d), Work::Moves { values: n * d, sums: 2 * n * d }];
    Bench { name: "embedding", case: &model_case(), work }.run_prepared(c, device, &|placed| {
        let inputs = Inputs::new(&placed.device, false);
        let ids = TokenIds::new(&inputs, &ids(n, v), v).unwrap();
        inputs.send().unwrap();
        let weight = placed.params[0].clone();
        Box::new(move |tape, _| Ok(Output::Vars(vec![embedding(tape, &ids, &weight, (d as f64).sqrt())?])))
    });
}
