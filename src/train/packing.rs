//! Whole rows in packs of a given number of tokens: best fit decreasing, as TRL's `packing_strategy="bfd"`.

use std::collections::{BTreeMap, VecDeque};

/// Packs of rows, as indices, that have at most `capacity` tokens each: the longest row first, each into the fullest pack that has
/// room for it. A row that is longer than a pack is alone in one. Packs stand in the order of their first row's length.
pub fn pack(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut packs: Vec<Vec<usize>> = Vec::new();
    // Packs by the room that they have left; of equal ones the oldest is filled first.
    let mut with_room: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for row in order {
        let length = lengths[row];
        let found = with_room.range_mut(length..).next().map(|(&room, packs)| (room, packs.pop_front()));
        let (room, at) = match found {
            Some((room, Some(at))) => (room, at),
            _ => {
                packs.push(Vec::new());
                (capacity.max(length), packs.len() - 1)
            }
        };
        if with_room.get(&room).is_some_and(VecDeque::is_empty) {
            with_room.remove(&room);
        }
        packs[at].push(row);
        with_room.entry(room - length).or_default().push_back(at);
    }
    packs
}
