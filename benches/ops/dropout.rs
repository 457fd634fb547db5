//! dropout: elements read and written.

use criterion::Criterion;
use engine::batch::inputs::Inputs;
use engine::device::Device;
use engine::ops::dropout::Dropout;

use super::lists::dropout::model_case;
use super::measure::{DTYPES, alone, tensor, values};

pub fn bench(c: &mut Criterion, device: &Device) {
    let n = model_case();
    for (name, dtype) in DTYPES {
        alone(c, device, ["dropout", name], values(2 * n).throughput(dtype), || {
            let inputs = Inputs::new(device, false);
            let dropout = Dropout { key: inputs.push(&[1, 2], 2, 0), product: 0, p: 0.1 };
            inputs.send().unwrap();
            let x = tensor(device, &[n], dtype);
            Box::new(move || drop(dropout.of(&x).unwrap()))
        });
    }
}
