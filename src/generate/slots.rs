//! Who holds which slot of a key-value cache: a token tree that grows and shrinks while sequences come and go.
//!
//! Prompts that come together share their prefixes as in training, and a prompt that begins as something that is already
//! there shares that too. A slot that nobody holds any more is free for others, under one condition that the mask sets: a
//! token sees every earlier slot whose subtree it lies in, so a free slot within a subtree is only for prompts that begin
//! with that subtree's tokens.

use std::ops::Range;

use crate::batch::tree::TokenTree;

/// A token whose keys and values are to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub slot: u32,
    pub id: u32,
    pub position: u32,
}

/// Where a prompt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Slot of its last token.
    pub last: u32,
    /// The first of the slots for the tokens that follow it.
    pub reserved: u32,
}

/// Prompts that were placed.
#[derive(Debug, PartialEq, Eq)]
pub struct Placed {
    /// One for each prompt.
    pub places: Vec<Place>,
    /// What is not in the cache yet, by slot.
    pub rows: Vec<Row>,
}

/// The slots of a cache.
pub struct Slots {
    /// `end` and `slot_positions` of every slot, for the mask. A slot that holds no token has the `end` 0.
    tree: TokenTree,
    /// The token in each slot.
    ids: Vec<u32>,
    /// How many sequences hold each slot, reserved ones included.
    holders: Vec<u32>,
}

impl Slots {
    /// `len` free slots, and behind them `spare` ones that nobody ever holds: each sees itself alone, and no other sees it.
    pub fn new(len: usize, spare: usize) -> Self {
        let all = len + spare;
        let mut tree = TokenTree { end: vec![0; all], slot_positions: vec![0; all], ..TokenTree::default() };
        (len..all).for_each(|slot| tree.end[slot] = slot as u32 + 1);
        Self { tree, ids: vec![0; len], holders: vec![0; len] }
    }

    /// The slots behind those that can be held.
    pub fn spare(&self) -> Range<u32> {
        self.num_slots() as u32..self.tree.end.len() as u32
    }

    /// The tree as the mask reads it.
    pub fn tree(&self) -> &TokenTree {
        &self.tree
    }

    /// Number of slots, without the spare ones.
    pub fn num_slots(&self) -> usize {
        self.holders.len()
    }

    /// Number of slots that nobody holds.
    pub fn num_free(&self) -> usize {
        self.holders.iter().filter(|&&holders| holders == 0).count()
    }

    /// Whether somebody holds the slot.
    pub fn is_held(&self, slot: u32) -> bool {
        self.holders[slot as usize] > 0
    }

    /// Places prompts (none empty), each with `room` slots for what follows it. None when they do not fit.
    pub fn place(&mut self, prompts: &[&[u32]], room: usize) -> Option<Placed> {
        let new = TokenTree::with_reserve(prompts, room);
        let path = self.known(common_beginning(prompts));
        // The more is known the less is computed; but the free slots may be elsewhere.
        let (known, base) = (0..=path.len()).rev().find_map(|known| {
            let parent = known.checked_sub(1).map(|last| path[last]);
            self.free_run(parent, new.end.len() - known).map(|base| (known, base))
        })?;
        let at = |slot: u32| slot + base as u32 - known as u32;
        for slot in known..new.end.len() {
            let (to, end) = (at(slot as u32) as usize, new.end[slot]);
            self.tree.end[to] = if end == 0 { 0 } else { at(end) };
            self.tree.slot_positions[to] = new.slot_positions[slot];
        }
        let end = at(new.end.len() as u32);
        path[..known].iter().for_each(|&slot| self.tree.end[slot] = self.tree.end[slot].max(end));
        // What is known is the tree's trunk: its first rows, in its first slots.
        let row = |row: usize| Row { slot: at(new.slots[row]), id: new.ids[row], position: new.positions[row] };
        let rows: Vec<Row> = (known..new.len()).map(row).collect();
        rows.iter().for_each(|row| self.ids[row.slot as usize] = row.id);
        let place = |prompt: usize| Place {
            last: at(new.slots[new.last_rows[prompt] as usize]),
            reserved: at(new.reserved[prompt]),
        };
        let places: Vec<Place> = (0..prompts.len()).map(place).collect();
        places.iter().for_each(|place| self.hold(place.reserved, room));
        Some(Placed { places, rows })
    }

    /// Puts a token into slot `index` of the `room` reserved ones.
    pub fn fill(&mut self, reserved: u32, room: usize, index: usize, (id, position): (u32, u32)) -> Row {
        let slot = reserved + index as u32;
        self.tree.end[slot as usize] = reserved + room as u32;
        self.tree.slot_positions[slot as usize] = position;
        self.ids[slot as usize] = id;
        Row { slot, id, position }
    }

    /// A sequence goes: what nobody else holds is free.
    pub fn release(&mut self, reserved: u32, room: usize) {
        let path = self.path_to(reserved);
        for slot in own(reserved, room) {
            (self.holders[slot], self.tree.end[slot]) = (0, 0);
        }
        for &slot in path.iter().rev() {
            self.holders[slot] -= 1;
            // A subtree ends where its last slot that is held does.
            let mut end = self.tree.end[slot] as usize;
            while end > slot && self.holders[end - 1] == 0 {
                end -= 1;
            }
            self.tree.end[slot] = if self.holders[slot] == 0 { 0 } else { end as u32 };
        }
    }

    fn hold(&mut self, reserved: u32, room: usize) {
        self.path_to(reserved).into_iter().for_each(|slot| self.holders[slot] += 1);
        self.holders[own(reserved, room)].fill(1);
    }

    /// The slots of a sequence's prompt: those that its first own slot sees.
    fn path_to(&self, reserved: u32) -> Vec<usize> {
        (0..reserved as usize).filter(|&slot| self.tree.end[slot] > reserved).collect()
    }

    /// The slots that hold the longest known beginning of `ids`.
    fn known(&self, ids: &[u32]) -> Vec<usize> {
        let (mut path, mut within) = (Vec::new(), 0..self.num_slots());
        for &id in ids {
            let Some(slot) = self.children(within).find(|&slot| self.ids[slot] == id) else { break };
            path.push(slot);
            within = slot + 1..self.tree.end[slot] as usize;
        }
        path
    }

    /// Slots of the tokens that follow directly, within the slots of a subtree.
    fn children(&self, mut within: Range<usize>) -> impl Iterator<Item = usize> {
        std::iter::from_fn(move || {
            let slot = within.find(|&slot| self.tree.end[slot] > 0)?;
            within.start = self.tree.end[slot] as usize;
            Some(slot)
        })
    }

    /// The first of `len` free slots in a row that lie below `parent` (None: below nothing) and below nothing else.
    fn free_run(&self, parent: Option<usize>, len: usize) -> Option<usize> {
        let (first, end) = parent.map_or((0, self.num_slots()), |slot| (slot + 1, self.tree.end[slot] as usize));
        let mut start = first;
        let mut slot = first;
        while slot < self.num_slots() && slot < start + len {
            if self.holders[slot] == 0 {
                // Behind a subtree's end it may grow as far as nobody is there.
                slot += 1;
                continue;
            }
            if slot >= end {
                return None;
            }
            slot = (self.tree.end[slot] as usize).max(slot + 1);
            start = slot;
        }
        (slot == start + len).then_some(start)
    }
}

fn own(reserved: u32, room: usize) -> Range<usize> {
    reserved as usize..reserved as usize + room
}

/// What all prompts begin with, without the last token of any: that one's logits are wanted, so it is computed.
fn common_beginning<'a>(prompts: &[&'a [u32]]) -> &'a [u32] {
    let Some((first, others)) = prompts.split_first() else { return &[] };
    let common = |other: &&[u32]| first.iter().zip(*other).take_while(|(a, b)| a == b).count().min(other.len() - 1);
    &first[..others.iter().map(common).min().unwrap_or(first.len()).min(first.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a sequence's first own slot sees: its prompt, and nothing else.
    fn seen(slots: &Slots, place: Place) -> Vec<u32> {
        slots.path_to(place.reserved).into_iter().map(|slot| slots.ids[slot]).collect()
    }

    #[test]
    fn prompts_see_themselves_and_what_they_share_is_computed_once() {
        let mut slots = Slots::new(40, 0);
        let prompts: [&[u32]; 3] = [&[2, 5, 6], &[2, 5], &[2, 5, 6]];
        let placed = slots.place(&prompts, 4).unwrap();
        assert_eq!(placed.rows.len(), 3);
        assert_eq!(slots.num_free(), 40 - 3 - 3 * 4);
        let later = slots.place(&[&[2, 5, 7]], 4);
        // Below `2 5` there is room behind the last of its slots.
        assert_eq!(later.as_ref().unwrap().rows, [Row { slot: 15, id: 7, position: 2 }]);
        for (place, prompt) in
            placed.places.iter().chain(&later.unwrap().places).zip(prompts.iter().chain([&&[2, 5, 7][..]]))
        {
            assert_eq!(seen(&slots, *place), *prompt);
        }
    }

    #[test]
    fn what_goes_makes_room_for_a_stranger_or_for_one_that_begins_alike() {
        let mut slots = Slots::new(2 + 3 * (1 + 4), 2);
        let placed = slots.place(&[&[2, 5, 6], &[2, 5, 7], &[2, 5, 8]], 4).unwrap();
        assert_eq!(slots.num_free(), 0);
        // The second one's slots lie within the subtree of `2 5`: only such a prompt may have them.
        slots.release(placed.places[1].reserved, 4);
        assert_eq!(slots.num_free(), 5);
        assert_eq!(slots.place(&[&[3]], 4), None);
        let alike = slots.place(&[&[2, 5, 9]], 4).unwrap();
        assert_eq!(seen(&slots, alike.places[0]), [2, 5, 9]);
        assert_eq!(alike.rows.len(), 1);
        // The last one's do not any more, once it is gone.
        slots.release(placed.places[2].reserved, 4);
        let stranger = slots.place(&[&[3]], 4).unwrap();
        assert_eq!(seen(&slots, stranger.places[0]), [3]);
        for place in [placed.places[0], alike.places[0], stranger.places[0]] {
            slots.fill(place.reserved, 4, 0, (9, 3));
            slots.release(place.reserved, 4);
        }
        assert_eq!(slots.num_free(), slots.num_slots());
        assert_eq!(slots.tree.end, [[0; 17].as_slice(), &[18, 19]].concat());
    }

    #[test]
    fn a_prompt_that_is_known_as_a_whole_has_its_last_token_computed_again() {
        let mut slots = Slots::new(30, 0);
        slots.place(&[&[2, 5, 6]], 4).unwrap();
        let again = slots.place(&[&[2, 5, 6]], 4).unwrap();
        assert_eq!(again.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [6]);
        assert_eq!(seen(&slots, again.places[0]), [2, 5, 6]);
        // Tokens that were filled in count as known.
        slots.fill(again.places[0].reserved, 4, 0, (9, 3));
        let longer = slots.place(&[&[2, 5, 6, 9, 1]], 4).unwrap();
        assert_eq!(seen(&slots, longer.places[0]), [2, 5, 6, 9, 1]);
    }
}
