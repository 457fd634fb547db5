//! round_blocks: master weights read in f32, what ops compute in written.

use criterion::Criterion;
use engine::autograd::Params;
use engine::device::{DType, Device};

use super::lists::round_blocks::model_case;
use super::measure::{DTYPES, Work, alone, tensor};

pub fn bench(c: &mut Criterion, device: &Device) {
    let case = model_case();
    let n = case.len();
    for (name, dtype) in DTYPES {
        alone(c, device, ["round_blocks", name], Work::Moves { values: n, sums: n }.throughput(dtype), || {
            let formats = case.kind.block_formats(&case.parameters).unwrap();
            let params = Params::new(&case.specs(), tensor(device, &[n], DType::F32)).unwrap();
            let mut params = params.rounded_in(dtype, &formats).unwrap();
            Box::new(move || params.round_to_blocks().unwrap())
        });
    }
}
