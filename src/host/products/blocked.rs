//! Blocked products of bf16 or f32 (WIDE): c (m, n) = or += a (m, k) b (k, n), sums in f32.
//!
//! # How the blocks were chosen
//!
//! A tile of ROWS x COLS sums stays in registers: 12 x 32 of the 32 registers of AVX-512 (24 chains hide a latency of 6 at one
//! product a cycle, and ask for 14 loads in 24 cycles), 6 x 16 of AVX2's 16 (12 chains, latency 4, two products a cycle), 8 x 12
//! of NEON's 32 (24 chains, latency 4, up to four products a cycle; 11 loads for 24 products), and the same of `bfmmla`'s
//! squares (24 chains, 10 loads). AMX has 32 x 32 in 4 of its 8 registers: 4 loads for 4 products, which take twice as long.
//! A panel of b has at most [`PANEL_BYTES`], of which the second level gives 5 bytes a cycle where it could give 32: of AVX2's 16
//! columns 640 words, of AVX-512's 32 columns 320, which are 640 terms as bf16 pairs: a layer's width in one piece, and most
//! batches' rows. A sum that has all its terms in one piece goes to c at once; shorter panels, which would stay in the first
//! level, gain less than that. Where the second level is large (AVX-512), [`LARGE_PANEL_BYTES`]: a layer's width in one piece in f32,
//! too (4 % faster). [`ROWS_BYTES`] of panels of a stay in the second level while all panels of b pass.
//!
//! The operand with fewer lines is packed once for all tasks; the other one is the long one (weights of a forward, columns of
//! logits) and each task packs its own part of it, in cache, right before it is used. A panel of it is packed once per
//! product and used for all lines of the other side, so that packing is 3 to 10 % of the time (of dx = dy W with few rows up to 20 %,
//! most of it waiting for rows of W), and no packed weight
//! ever goes to memory. With AVX-512 a tile asks for a few lines of what its task, or the next one, packs next, one every few steps
//! (2 to 5 % faster, and slower when all are asked for before the tile; with AVX2's smaller tiles there is no difference), and a c of
//! [`STREAMED_BYTES`] and more that is only written goes to memory past the caches, which would read it first (dW of the head: 15 %).
//!
//! Where c is small and k is long (the gradient of hidden states through the head: k = 262144), tasks are pieces of
//! [`PIECE`] terms instead: each has all of c in a buffer of its own, and these are added in order.
//!
//! The order of every sum follows from k alone: the same bits on any number of threads, and with every vector unit. Units that
//! multiply small matrices (AMX, `bfmmla`) add several products before they add them to a sum: bits of their own.

use std::ffi::c_void;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::buffer::Buffer;
use super::pack::{Layout, Lines, step, words};
use super::prefetch::{Ahead, LINE, streamed};
use super::tile::{Finish, Tile};
use super::tiles::{Compiled, Tiles};
use crate::device::DType;
use crate::device::driver::Product;
use crate::host::simd::vectorized;

/// Bytes of a panel of b: as many words of its columns are summed before the next ones are packed.
const PANEL_BYTES: usize = 40 << 10;

/// The same where the second-level cache is large, but for products in pieces, which pack all columns of b at once.
const LARGE_PANEL_BYTES: usize = 80 << 10;

/// Bytes of c from which on no cache keeps it until it is read; and those of a weight's gradient, which is read when all are there.
const STREAMED_BYTES: usize = 32 << 20;
const STREAMED_GRADIENT_BYTES: usize = 1 << 20;

/// Bytes of panels of a that pass over each panel of b.
const ROWS_BYTES: usize = 192 << 10;

/// Terms of a piece where k is split, and how long k must then be: pieces are long, so that the extra sums cost little.
const PIECE: usize = 16_384;

/// Elements of c up to which k is split.
const SMALL: usize = 1 << 20;

/// Panels that are packed together: whole cache lines of an operand whose lines are side by side.
const TOGETHER: usize = 8;

/// Most rows of c of a task that packs columns of b.
const TASK_ROWS: usize = 1024;

/// One side of a product.
struct Side {
    lines: Lines,
    layout: Layout,
    /// All panels, block after block of terms, when they are packed for all tasks.
    packed: Option<Buffer>,
}

// SAFETY: tasks only read what is packed.
unsafe impl Sync for Side {}

/// A product, its sides, and how its terms are cut.
struct Blocked<U, const WIDE: bool> {
    unit: U,
    a: Side,
    b: Side,
    /// Terms of a block.
    block: usize,
    c: *mut c_void,
    narrow: bool,
    accumulate: bool,
}

// SAFETY: tasks write parts of c of their own.
unsafe impl<U: Sync, const WIDE: bool> Sync for Blocked<U, WIDE> {}

/// # Safety
/// The matrices are there, a and b in f32 (WIDE) or bf16.
pub(super) unsafe fn blocked<U: Tiles, const WIDE: bool>(unit: U, product: &Product) {
    assert!(!(WIDE && U::PAIRS), "pairs are of bf16");
    let Product { m, n, k, .. } = *product;
    let side = |lines: Lines, width, together| Side { lines, layout: Layout { width, together }, packed: None };
    let split = m * n <= SMALL && k >= 2 * PIECE;
    let bytes = if U::HAS_LARGE_CACHES && !split { LARGE_PANEL_BYTES } else { PANEL_BYTES };
    let words = bytes / size_of::<u32>() / U::COLS;
    let of_word = if U::PAIRS { 2 } else { 1 };
    let most = of_word * words;
    let terms = if split { PIECE } else { k };
    let whole = (of_word * const { step::<U>() }).next_multiple_of(2);
    let block = terms.div_ceil(terms.div_ceil(most).max(1)).next_multiple_of(whole).max(whole);
    let narrow = product.c_dtype == DType::Bf16;
    let a = side(Lines::rows(product.a, WIDE, m, k), U::ROWS, U::TOGETHER[0]);
    let b = side(Lines::columns(product.b, WIDE, n, k), U::COLS, U::TOGETHER[1]);
    let mut job = Blocked::<U, WIDE> { unit, a, b, block, c: product.c, narrow, accumulate: product.accumulate };
    // SAFETY: the caller's promise.
    unsafe {
        if split {
            job.in_pieces();
        } else if n >= m {
            job.a.pack_all::<U, WIDE>(block);
            job.by_columns();
        } else {
            job.b.pack_all::<U, WIDE>(block);
            job.by_rows();
        }
    }
}

impl Side {
    fn panels(&self) -> usize {
        self.lines.lines.div_ceil(self.layout.width)
    }

    /// # Safety
    /// The operand is there.
    unsafe fn pack_all<U: Tiles, const WIDE: bool>(&mut self, block: usize) {
        let k = self.lines.terms;
        let each = |terms: usize| self.panels() * self.layout.width * words::<U, WIDE>(terms);
        let mut packed = Buffer::new(blocks(0..k, block).map(|terms| each(terms.len())).sum());
        let mut rest = packed.words();
        for terms in blocks(0..k, block) {
            let (part, after) = rest.split_at_mut(each(terms.len()));
            rest = after;
            let panel = self.layout.width * words::<U, WIDE>(terms.len());
            part.par_chunks_mut((TOGETHER * panel).max(1)).enumerate().for_each(|(group, to)| {
                let panels = group * TOGETHER..((group + 1) * TOGETHER).min(self.panels());
                // SAFETY: the caller's promise.
                unsafe { self.lines.pack::<U, WIDE>(panels, self.layout, terms.clone(), to) };
            });
        }
        self.packed = Some(packed);
    }

    /// Panels of some terms: those packed before, or packed now into `own`.
    ///
    /// # Safety
    /// As [`Side::pack_all`]; `own` has room for them.
    unsafe fn panels_of<U: Tiles, const WIDE: bool>(
        &self,
        panels: Range<usize>,
        terms: &Range<usize>,
        own: &mut [u32],
    ) -> *const u32 {
        let panel = self.layout.width * words::<U, WIDE>(terms.len());
        if let Some(packed) = &self.packed {
            let before = self.panels() * self.layout.width * words::<U, WIDE>(terms.start);
            let first = before + panels.start * panel;
            return packed.read()[first..first + panels.len() * panel].as_ptr();
        }
        // SAFETY: the caller's promise.
        unsafe { self.lines.pack::<U, WIDE>(panels, self.layout, terms.clone(), own) };
        own.as_ptr()
    }

    /// Words that a task needs to pack so many panels.
    fn own_words<U: Tiles, const WIDE: bool>(&self, panels: usize, block: usize) -> usize {
        if self.packed.is_some() { 0 } else { panels * self.layout.width * words::<U, WIDE>(block) }
    }
}

/// What a task packs next, asked for in equal parts by the tiles that are computed meanwhile.
struct Next<'a> {
    /// With its panels and terms; None: nothing, or it is packed.
    what: Option<(&'a Side, Range<usize>, Range<usize>)>,
    tiles: usize,
    asked: usize,
}

impl<'a> Next<'a> {
    /// The first of these panels, over the terms beside them, that are any.
    fn new<U: Tiles>(
        side: &'a Side,
        tiles: usize,
        wanted: impl IntoIterator<Item = (Range<usize>, Range<usize>)>,
    ) -> Self {
        let asks = U::HAS_LARGE_CACHES && side.packed.is_none();
        let what = wanted.into_iter().find(|(panels, terms)| asks && !panels.is_empty() && !terms.is_empty());
        Self { what: what.map(|(panels, terms)| (side, panels, terms)), tiles, asked: 0 }
    }

    /// For the next tile.
    fn part(&mut self) -> Ahead {
        let part = (self.asked, self.tiles);
        self.asked += 1;
        self.what.as_ref().map_or_else(Ahead::default, |(side, panels, terms)| {
            side.lines.ahead(panels, side.layout.width, terms, part)
        })
    }
}

fn blocks(terms: Range<usize>, block: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let end = terms.end;
    // No terms are one block without any: c is still written.
    let none = terms.is_empty().then_some(terms.clone());
    terms.step_by(block).map(move |first| first..(first + block).min(end)).chain(none)
}

/// Where a task's sums go.
enum Into<'a> {
    C,
    /// (panels of a, panels of b) tiles
    Sums(&'a mut [f32]),
}

impl<U: Tiles, const WIDE: bool> Blocked<U, WIDE> {
    /// Panels of a in a group that stays in cache.
    fn group(&self) -> usize {
        (ROWS_BYTES / (4 * words::<U, WIDE>(self.block) * U::ROWS)).max(1)
    }

    /// Tasks of some columns each, and of TASK_ROWS rows where there are more.
    ///
    /// # Safety
    /// As [`blocked`].
    unsafe fn by_columns(&self) {
        let threads = rayon::current_num_threads();
        let (rows, cols) = (self.a.panels(), self.b.panels());
        let per_task = cols.div_ceil(8 * threads).clamp(64 / U::COLS.min(64), 256 / U::COLS);
        let rows_per_task = TASK_ROWS / U::ROWS;
        let across = cols.div_ceil(per_task);
        (0..across * rows.div_ceil(rows_per_task)).into_par_iter().for_each(|task| {
            let (down, across) = (task / across, task % across);
            let part = |i: usize, per: usize, all: usize| i * per..((i + 1) * per).min(all);
            let (rows, cols) = (part(down, rows_per_task, rows), part(across, per_task, cols));
            // SAFETY: the caller's promise; no other task has these tiles.
            unsafe { self.task(rows, cols, 0..self.a.lines.terms, Into::C) };
        });
    }

    /// Tasks of some rows and all columns.
    ///
    /// # Safety
    /// As [`blocked`].
    unsafe fn by_rows(&self) {
        let rows = self.a.panels();
        let per_task = rows.div_ceil(8 * rayon::current_num_threads()).clamp(1, self.group());
        (0..rows.div_ceil(per_task)).into_par_iter().for_each(|task| {
            let own = task * per_task..((task + 1) * per_task).min(rows);
            // SAFETY: the caller's promise; no other task has these rows.
            unsafe { self.task(own, 0..self.b.panels(), 0..self.a.lines.terms, Into::C) };
        });
    }

    /// Tasks of some terms and all of c, whose sums are then added in order.
    ///
    /// # Safety
    /// As [`blocked`].
    unsafe fn in_pieces(&self) {
        let tile = U::ROWS * U::COLS;
        let (rows, cols) = (self.a.panels(), self.b.panels());
        let len = rows * cols * tile;
        let pieces: Vec<Range<usize>> = blocks(0..self.a.lines.terms, PIECE).collect();
        let mut all = Buffer::new(pieces.len() * len);
        all.sums().par_chunks_mut(len).zip(pieces.clone()).for_each(|(sums, terms)| {
            // SAFETY: the caller's promise.
            unsafe { self.task(0..rows, 0..cols, terms, Into::Sums(sums)) };
        });
        let (total, others) = all.sums().split_at_mut(len);
        total.par_chunks_mut(tile).enumerate().for_each(|(t, total)| {
            vectorized!({
                for piece in others.chunks_exact(len) {
                    total.iter_mut().zip(&piece[t * tile..][..tile]).for_each(|(total, sum)| *total += sum);
                }
                // SAFETY: the caller's promise; no other task has this tile.
                unsafe { self.unit.vectors().finish(&self.finish(t / cols, t % cols), total.as_ptr()) };
            });
        });
    }

    /// The tiles of some panels of both sides, over some terms.
    ///
    /// # Safety
    /// As [`blocked`]; nobody else writes these tiles of c.
    unsafe fn task(&self, rows: Range<usize>, cols: Range<usize>, terms: Range<usize>, into: Into) {
        let tile = U::ROWS * U::COLS;
        let one_block = terms.len() <= self.block;
        let mut a_words = Buffer::new(self.a.own_words::<U, WIDE>(self.group().min(rows.len()), self.block));
        let mut b_words = Buffer::new(self.b.own_words::<U, WIDE>(cols.len(), self.block));
        // One tile is enough for sums that c gets at once.
        let needed = match &into {
            Into::Sums(_) => 0,
            Into::C if one_block && !self.narrow => tile,
            Into::C => rows.len() * cols.len() * tile,
        };
        let mut own = Buffer::new(needed);
        let to_c = matches!(into, Into::C);
        let sums = match into {
            Into::Sums(sums) => sums,
            Into::C => own.sums(),
        };
        let at_once = to_c && one_block && !self.narrow;
        let first_block = terms.start..(terms.start + self.block).min(terms.end);
        for block in blocks(terms.clone(), self.block) {
            let later = block.end..(block.end + self.block).min(terms.end);
            let neighbours = cols.end..(cols.end + cols.len()).min(self.b.panels());
            let wanted = [(cols.clone(), later.clone()), (neighbours, first_block.clone())];
            let mut next_b = Next::new::<U>(&self.b, cols.len() * rows.len(), wanted);
            // SAFETY: the caller's promise.
            let b = unsafe { self.b.panels_of::<U, WIDE>(cols.clone(), &block, b_words.words()) };
            for first in rows.clone().step_by(self.group()) {
                let group = first..(first + self.group()).min(rows.end);
                // SAFETY: as above.
                let a = unsafe { self.a.panels_of::<U, WIDE>(group.clone(), &block, a_words.words()) };
                let group_at = |first: usize, end: usize| first..(first + self.group()).min(end);
                let wanted = [
                    (group_at(group.end, rows.end), block.clone()),
                    (group_at(rows.start, rows.end), later.clone()),
                    (group_at(rows.end, self.a.panels()), first_block.clone()),
                ];
                let mut next_a = Next::new::<U>(&self.a, cols.len() * group.len(), wanted);
                for col in cols.clone() {
                    for row in group.clone() {
                        let place = (row - rows.start) * cols.len() + (col - cols.start);
                        let steps = words::<U, WIDE>(block.len());
                        let job = Tile {
                            steps,
                            a: a.wrapping_add((row - group.start) * U::ROWS * steps),
                            b: b.wrapping_add((col - cols.start) * U::COLS * steps),
                            sums: &raw mut sums[if at_once { 0 } else { place * tile }],
                            add: block.start > terms.start,
                            finish: at_once.then(|| self.finish(row, col)),
                            ahead: [next_a.part(), next_b.part()],
                        };
                        // SAFETY: as above; the panels and the tile of sums are in their buffers.
                        unsafe { self.unit.tile(&job) };
                    }
                }
            }
        }
        if to_c && !at_once {
            for (row, sums) in rows.zip(sums.chunks_exact(cols.len() * tile)) {
                for (col, sums) in cols.clone().zip(sums.chunks_exact(tile)) {
                    // SAFETY: as above.
                    unsafe { self.unit.vectors().finish(&self.finish(row, col), sums.as_ptr()) };
                }
            }
        }
        if self.streams() {
            streamed();
        }
    }

    /// Whether c is written past the caches.
    fn streams(&self) -> bool {
        let (m, n) = (self.a.lines.lines, self.b.lines.lines);
        let has_whole_lines = (self.c.addr() | (n * size_of::<f32>())).is_multiple_of(LINE);
        // Terms of both sides lie apart: dy^T x.
        let is_gradient = !self.a.lines.along_terms && !self.b.lines.along_terms;
        let least = if is_gradient { STREAMED_GRADIENT_BYTES } else { STREAMED_BYTES };
        let is_large = m * n * size_of::<f32>() >= least;
        U::HAS_LARGE_CACHES && is_large && has_whole_lines && !self.narrow && !self.accumulate
    }

    /// Where tile (row, col) lies in c.
    fn finish(&self, row: usize, col: usize) -> Finish {
        let (m, n) = (self.a.lines.lines, self.b.lines.lines);
        let (r, c) = (row * U::ROWS, col * U::COLS);
        let size = if self.narrow { size_of::<bf16>() } else { size_of::<f32>() };
        let first = self.c.cast::<u8>().wrapping_add((r * n + c) * size).cast();
        let (rows, cols) = (U::ROWS.min(m - r), U::COLS.min(n - c));
        let (narrow, accumulate) = (self.narrow, self.accumulate);
        Finish { c: first, stride: n, sums_stride: U::COLS, rows, cols, narrow, accumulate, stream: self.streams() }
    }
}
