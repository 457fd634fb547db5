//! The memory of captured graphs: a few large chunks, cut into blocks that join again when they are free.
//!
//! Graphs run one after the other, so that what one needs while it runs may lie where another's did: blocks that are freed at
//! the end of one capture serve the next, whatever its sizes. All graphs together then take about what the largest takes.

use std::collections::BTreeMap;
use std::ffi::c_void;

/// A chunk is at least this large.
const CHUNK_BYTES: usize = 64 << 20;

/// Memory that came from the driver in one piece.
pub struct Chunk {
    pub address: *mut c_void,
    pub size: usize,
}

/// Chunks and their free blocks.
pub struct Arena {
    /// By address: sizes of free blocks, which never touch within a chunk.
    free: BTreeMap<usize, usize>,
    /// By address: sizes of the chunks.
    chunks: BTreeMap<usize, usize>,
    /// Whether chunks are cut. On the emulated device they are not: each tensor has guard bands of its own there.
    cuts: bool,
}

impl Arena {
    pub fn new(cuts: bool) -> Self {
        Self { free: BTreeMap::new(), chunks: BTreeMap::new(), cuts }
    }

    /// A free block of this size, cut from the smallest that holds it, the first of equals; None when there is none.
    pub fn take(&mut self, size: usize) -> Option<*mut c_void> {
        let fits = |&(_, &free): &(&usize, &usize)| if self.cuts { free >= size } else { free == size };
        let (&address, &found) = self.free.iter().filter(fits).min_by_key(|&(_, &free)| free)?;
        self.free.remove(&address);
        if found > size {
            self.free.insert(address + size, found - size);
        }
        Some(address as *mut c_void)
    }

    /// Takes back a block that [`Arena::take`] gave, and joins it with free neighbours in its chunk.
    pub fn give(&mut self, address: *mut c_void, size: usize) {
        let (mut start, mut end) = (address as usize, address as usize + size);
        if let Some((&before, &len)) = self.free.range(..start).next_back()
            && before + len == start
            && !self.chunks.contains_key(&start)
        {
            self.free.remove(&before);
            start = before;
        }
        if !self.chunks.contains_key(&end)
            && let Some(len) = self.free.remove(&end)
        {
            end += len;
        }
        self.free.insert(start, end - start);
    }

    /// What to ask the driver for when no block of this size is free.
    pub fn chunk_size(&self, size: usize) -> usize {
        if self.cuts { size.max(CHUNK_BYTES) } else { size }
    }

    /// Adds memory of the driver.
    pub fn add_chunk(&mut self, address: *mut c_void, size: usize) {
        self.chunks.insert(address as usize, size);
        self.free.insert(address as usize, size);
    }

    /// Removes the chunks of which nothing is in use.
    pub fn take_free_chunks(&mut self) -> Vec<Chunk> {
        let whole = |(address, size): (&usize, &usize)| (self.free.get(address) == Some(size)).then_some(*address);
        let addresses: Vec<usize> = self.chunks.iter().filter_map(whole).collect();
        let remove = |address: usize| {
            self.free.remove(&address);
            self.chunks.remove(&address).map(|size| Chunk { address: address as *mut c_void, size })
        };
        addresses.into_iter().filter_map(remove).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: usize) -> *mut c_void {
        address as *mut c_void
    }

    #[test]
    fn blocks_that_are_free_again_join_and_serve_other_sizes() {
        let mut arena = Arena::new(true);
        arena.add_chunk(at(1000), 100);
        let blocks = [arena.take(40), arena.take(30), arena.take(30)];
        assert_eq!(blocks, [Some(at(1000)), Some(at(1040)), Some(at(1070))]);
        assert_eq!(arena.take(1), None);
        for (address, size) in [(1070, 30), (1000, 40), (1040, 30)] {
            arena.give(at(address), size);
        }
        assert_eq!(arena.take(100), Some(at(1000)));
    }

    #[test]
    fn the_smallest_block_that_fits_is_cut() {
        let mut arena = Arena::new(true);
        arena.add_chunk(at(1000), 100);
        arena.add_chunk(at(3000), 50);
        assert_eq!(arena.take(50), Some(at(3000)));
        assert_eq!(arena.take(50), Some(at(1000)));
        assert_eq!(arena.take(50), Some(at(1050)));
    }

    #[test]
    fn chunks_that_happen_to_touch_stay_apart() {
        let mut arena = Arena::new(true);
        arena.add_chunk(at(1000), 100);
        arena.add_chunk(at(1100), 100);
        assert_eq!(arena.take(150), None);
        let both = [arena.take(100).unwrap(), arena.take(100).unwrap()];
        both.iter().for_each(|&block| arena.give(block, 100));
        let chunks: Vec<_> =
            arena.take_free_chunks().iter().map(|chunk| (chunk.address as usize, chunk.size)).collect();
        assert_eq!(chunks, [(1000, 100), (1100, 100)]);
        assert_eq!(arena.take(1), None);
    }

    #[test]
    fn a_chunk_in_use_is_kept() {
        let mut arena = Arena::new(true);
        arena.add_chunk(at(1000), 100);
        let block = arena.take(10).unwrap();
        assert!(arena.take_free_chunks().is_empty());
        arena.give(block, 10);
        assert_eq!(arena.take_free_chunks().len(), 1);
    }

    #[test]
    fn an_arena_that_does_not_cut_gives_whole_chunks() {
        let mut arena = Arena::new(false);
        assert_eq!(arena.chunk_size(10), 10);
        arena.add_chunk(at(1000), 100);
        assert_eq!(arena.take(10), None);
        assert_eq!(arena.take(100), Some(at(1000)));
    }
}
