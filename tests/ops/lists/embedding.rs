//! embedding: h = scale * weight[id].

use engine::batch::inputs::Inputs;
use engine::ops::embedding::{TokenIds, embedding};
use rand::RngExt;

use super::{Case, Output, rng};

/// Whether the batch's arrays have the room of the largest batch of its size: groups of ids beyond the last are empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Room {
    Own,
    Fixed,
}

/// The last id of a vocabulary V, then n - 1 drawn from half of it: some repeat, some never come.
pub fn ids(n: usize, v: usize) -> Vec<u32> {
    let mut rng = rng(11);
    let drawn = |i| if i == 0 { v - 1 } else { rng.random_range(0..v.div_ceil(2)) };
    (0..n).map(drawn).map(|id| id as u32).collect()
}

/// N tokens of a vocabulary V, width D.
pub fn case(n: usize, v: usize, d: usize, room: Room) -> Case {
    let ids = ids(n, v);
    let (scale, same) = ((d as f64).sqrt(), ids.clone());
    Case {
        name: format!("embedding of N {n}, V {v}, D {d}, {room:?} room"),
        inputs: vec![],
        params: vec![vec![v, d]],
        amplitude: 1.0,
        terms: n,
        run: Box::new(move |tape, _, params| {
            let inputs = Inputs::new(tape.device(), room == Room::Fixed);
            let ids = TokenIds::new(&inputs, &ids, v)?;
            inputs.send()?;
            Ok(Output::Vars(vec![embedding(tape, &ids, &params[0], scale)?]))
        }),
        formula: Box::new(move |_, params| {
            let row = |&id: &u32| (0..d).map(move |j| (id as usize, j));
            vec![same.iter().flat_map(row).map(|(id, j)| scale * params[0][id * d + j]).collect()]
        }),
    }
}

/// N, V and D of the model.
pub const MODEL: (usize, usize, usize) = (270, 262_144, 640);

pub fn model_case() -> Case {
    let (n, v, d) = MODEL;
    case(n, v, d, Room::Own)
}

/// 16, 24 and 640 take the paths of 16 bytes; 203 rows of 4099 are more than one task of rows.
pub fn cases() -> Vec<Case> {
    let (own, fixed) = (Room::Own, Room::Fixed);
    let shapes = [
        (1, 257, 1, own),
        (2, 5, 16, own),
        (5, 2, 33, fixed),
        (17, 7, 5, own),
        (17, 41, 640, fixed),
        (113, 257, 5, own),
        (113, 17, 257, own),
        (203, 41, 24, fixed),
        (203, 4099, 3, own),
    ];
    shapes.map(|(n, v, d, room)| case(n, v, d, room)).into()
}
