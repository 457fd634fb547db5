//! Packing: some lines of an operand become panels that a tile reads from front to back.
//!
//! A line is a row of a or a column of b. A panel is `width` lines: for each word of terms, the word of every line; or for some
//! words, those of every line, where a unit multiplies small matrices ([`Layout`]). Where
//! terms lie side by side, 4 lines by 4 pairs are transposed in registers (SSE2, which every x86-64 has, or NEON); where lines do,
//! two rows of terms are interleaved. Operands in f32 (WIDE) are packed in the same way with one term for each pair: a word is
//! a term then. Missing lines and terms are 0.

use std::ops::Range;

use super::four;
use super::prefetch::{Ahead, LINE, fetch};
use super::tiles::Tiles;
use crate::device::driver::Operand;

/// The lines of an operand, in bf16 or f32.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    address: *const u8,
    /// Bytes of a number.
    size: usize,
    stride: usize,
    /// Whether the terms of a line are neighbours; else those of a term are.
    pub along_terms: bool,
    pub lines: usize,
    pub terms: usize,
}

// SAFETY: it is only read, by whoever was promised that it is there.
unsafe impl Sync for Lines {}
// SAFETY: as above.
unsafe impl Send for Lines {}

/// How words lie in a panel.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Lines of a panel.
    pub width: usize,
    /// Words of a line that lie side by side; behind them are as many of the next line.
    pub together: usize,
}

impl Layout {
    /// Where a word of a line lies.
    pub const fn place(self, word: usize, line: usize) -> usize {
        (word / self.together * self.width + line) * self.together + word % self.together
    }
}

/// Panels, and the terms that are packed, in whole words of memory: pairs, or single ones in f32.
#[derive(Clone, Copy)]
struct Part {
    panels: (usize, usize),
    layout: Layout,
    from: usize,
    words: usize,
}

/// Terms of 32 bits of an operand.
const fn terms_of_word(wide: bool) -> usize {
    if wide { 1 } else { 2 }
}

impl Lines {
    /// The rows of a.
    pub fn rows(a: Operand, wide: bool, lines: usize, terms: usize) -> Self {
        let size = size_of::<u32>() / terms_of_word(wide);
        Self { address: a.address.cast(), size, stride: a.stride, along_terms: !a.transposed, lines, terms }
    }

    /// The columns of b.
    pub fn columns(b: Operand, wide: bool, lines: usize, terms: usize) -> Self {
        Self::rows(b.t(), wide, lines, terms)
    }

    fn at(self, line: usize, term: usize) -> *const u8 {
        let (outer, inner) = if self.along_terms { (line, term) } else { (term, line) };
        self.address.wrapping_add((outer * self.stride + inner) * self.size)
    }

    /// A part of the memory that [`Lines::pack`] will read.
    pub fn ahead(self, panels: &Range<usize>, width: usize, terms: &Range<usize>, part: (usize, usize)) -> Ahead {
        let lines = (panels.start * width).min(self.lines)..(panels.end * width).min(self.lines);
        let first = self.at(lines.start, terms.start);
        let (rows, numbers) = if self.along_terms { (lines.len(), terms.len()) } else { (terms.len(), lines.len()) };
        Ahead::new(first, [rows, numbers * self.size, self.stride * self.size], part)
    }

    /// Packs some panels, one after the other; in bf16 `terms` begin at an even one. There is room for `width` times [`words`]
    /// in each.
    ///
    /// # Safety
    /// The operand is there; WIDE says whether it is in f32.
    pub unsafe fn pack<U: Tiles, const WIDE: bool>(
        self,
        panels: Range<usize>,
        layout: Layout,
        terms: Range<usize>,
        to: &mut [u32],
    ) {
        let width = layout.width;
        let panel = width * words::<U, WIDE>(terms.len());
        assert!(to.len() >= panels.len() * panel && terms.end <= self.terms);
        assert!(self.size * terms_of_word(WIDE) == size_of::<u32>() && (WIDE || terms.start.is_multiple_of(2)));
        // Panels and words that lack nothing, four lines at a time; the last four of a panel may overlap those before.
        let whole = panels.start..(self.lines / width).clamp(panels.start, panels.end);
        let in_memory = terms.len() / terms_of_word(WIDE);
        let part = Part { panels: (whole.start, whole.len()), layout, from: terms.start, words: in_memory };
        assert!(width == U::COLS || width == U::ROWS);
        let fast = width >= 4;
        if fast {
            // SAFETY: the caller's promise; these lines and words are there, and so is room for them.
            unsafe {
                if self.along_terms {
                    self.turned::<U, WIDE>(part, panel, to);
                } else if has_squares::<U>(layout) {
                    self.woven_squares(part, panel, to);
                } else {
                    self.woven::<U, WIDE>(part, panel, to);
                }
            }
        }
        let fours = self.along_terms || has_squares::<U>(layout);
        let done = if fours { part.words / 4 * 4 } else { part.words };
        for p in panels.clone() {
            let to = &mut to[(p - panels.start) * panel..][..panel];
            for at in if fast && whole.contains(&p) { done } else { 0 }..memory_words::<U, WIDE>(terms.len()) {
                for line in 0..width {
                    let term = terms.start + at * terms_of_word(WIDE);
                    // SAFETY: as above.
                    let word = unsafe { self.word::<WIDE>(p * width + line, term, terms.end) };
                    put::<U, WIDE>(to, layout, at, line, word);
                }
            }
        }
    }

    /// A term of a line, or two in bf16; 0 for what is not there.
    ///
    /// # Safety
    /// As [`Lines::pack`].
    unsafe fn word<const WIDE: bool>(self, line: usize, term: usize, end: usize) -> u32 {
        let is_there = |term: usize| line < self.lines && term < end;
        let one = |term: usize| {
            // SAFETY: the caller's promise.
            if is_there(term) { u32::from(unsafe { self.at(line, term).cast::<u16>().read() }) } else { 0 }
        };
        if !WIDE {
            return one(term + 1) << 16 | one(term);
        }
        // SAFETY: as above.
        if is_there(term) { unsafe { self.at(line, term).cast::<u32>().read() } } else { 0 }
    }

    /// Transposes 4 lines by 4 words at a time; fewer than 4 words are left.
    ///
    /// # Safety
    /// As [`Lines::pack`]; these lines and words are there.
    #[inline(always)]
    unsafe fn turned<U: Tiles, const WIDE: bool>(self, part: Part, panel: usize, to: &mut [u32]) {
        let all = part.words / 4 * 4;
        for p in 0..part.panels.1 {
            let to = to[p * panel..].as_mut_ptr();
            let width = part.layout.width;
            let first = (part.panels.0 + p) * width;
            for words in (0..all).step_by(LINE_WORDS) {
                for line in fours(width) {
                    let at = |i: usize, word: usize| self.at(first + line + i, part.from + word * terms_of_word(WIDE));
                    // The next panel's lines of memory, where these are in this panel.
                    (0..4).for_each(|i| fetch(at(i + width, words)));
                    for word in (words..(words + LINE_WORDS).min(all)).step_by(4) {
                        // SAFETY: the caller's promise: 4 words of each of 4 lines.
                        let lines = unsafe { [0, 1, 2, 3].map(|i| four::load(at(i, word).cast())) };
                        if has_squares::<U>(part.layout) {
                            // SAFETY: the panel has room for them.
                            unsafe { put_square(to, part.layout, word, line, lines) };
                            continue;
                        }
                        for (i, column) in four::transposed(lines).into_iter().enumerate() {
                            // SAFETY: the panel has `width` words for each word of memory, or twice as many.
                            unsafe { put_four::<U, WIDE>(to, width, word + i, line, column) };
                        }
                    }
                }
            }
        }
    }

    /// Asks for the rows of a word's terms: they lie too far apart for the machine to guess.
    #[inline(always)]
    fn fetch<const WIDE: bool>(self, part: Part, term: usize) {
        let width = part.layout.width;
        let bytes = part.panels.1 * width * self.size;
        for term in term..term + terms_of_word(WIDE) {
            let row = self.address.wrapping_add((term * self.stride + part.panels.0 * width) * self.size);
            (0..bytes).step_by(LINE).for_each(|byte| fetch(row.wrapping_add(byte)));
        }
    }

    /// Interleaves two rows of terms (in f32 it copies one), through all panels: rows may lie so far apart that no cache
    /// holds many.
    ///
    /// # Safety
    /// As [`Lines::turned`].
    #[inline(always)]
    unsafe fn woven<U: Tiles, const WIDE: bool>(self, part: Part, panel: usize, to: &mut [u32]) {
        let width = part.layout.width;
        for word in 0..part.words {
            let term = |word: usize| part.from + word * terms_of_word(WIDE);
            let [first, second] = [0, 1].map(|i| self.at(part.panels.0 * width, term(word) + i));
            self.fetch::<WIDE>(part, term(word + AHEAD));
            for p in 0..part.panels.1 {
                let to = to[p * panel..].as_mut_ptr();
                for line in fours(width) {
                    let at = (p * width + line) * self.size;
                    let (first, second) = (first.wrapping_add(at), second.wrapping_add(at));
                    // SAFETY: the caller's promise: 4 lines of a term, or of two.
                    let words = unsafe {
                        if WIDE { four::load(first.cast()) } else { four::woven(first.cast(), second.cast()) }
                    };
                    // SAFETY: as in `turned`.
                    unsafe { put_four::<U, WIDE>(to, width, word, line, words) };
                }
            }
        }
    }

    /// [`Lines::woven`] in bf16 where words lie together: 4 words at a time, which are transposed; fewer than 4 are left.
    ///
    /// # Safety
    /// As [`Lines::turned`].
    #[inline(always)]
    unsafe fn woven_squares(self, part: Part, panel: usize, to: &mut [u32]) {
        let width = part.layout.width;
        for word in (0..part.words / 4 * 4).step_by(4) {
            (0..4).for_each(|i| self.fetch::<false>(part, part.from + 2 * (word + i + AHEAD)));
            for p in 0..part.panels.1 {
                let to = to[p * panel..].as_mut_ptr();
                for line in fours(width) {
                    let first = (part.panels.0 + p) * width + line;
                    // SAFETY: the caller's promise: 4 lines of 8 terms.
                    let words = [0, 1, 2, 3].map(|i| unsafe {
                        let term = part.from + 2 * (word + i);
                        four::woven(self.at(first, term).cast(), self.at(first, term + 1).cast())
                    });
                    // SAFETY: the panel has room for them.
                    unsafe { put_square(to, part.layout, word, line, four::transposed(words)) };
                }
            }
        }
    }
}

/// Words of a cache line.
const LINE_WORDS: usize = 16;

/// Words whose rows are asked for before they are read.
const AHEAD: usize = 6;

/// Where four lines of a panel begin.
#[inline(always)]
fn fours(width: usize) -> impl Iterator<Item = usize> {
    (0..width).step_by(4).map(move |line| line.min(width - 4))
}

/// Words of a line that a panel has a multiple of.
pub(super) const fn step<U: Tiles>() -> usize {
    let [a, b] = U::TOGETHER;
    if a > b { a } else { b }
}

/// Whether words of a line lie together in a panel.
#[inline(always)]
fn has_squares<U: Tiles>(layout: Layout) -> bool {
    (const { step::<U>() > 1 }) && layout.together > 1
}

/// Words of memory of a line of so many terms, and those that a panel has more.
fn memory_words<U: Tiles, const WIDE: bool>(terms: usize) -> usize {
    terms.div_ceil(terms_of_word(WIDE)).next_multiple_of(const { step::<U>() })
}

/// Words of a line of so many terms.
pub(super) fn words<U: Tiles, const WIDE: bool>(terms: usize) -> usize {
    memory_words::<U, WIDE>(terms) * if WIDE || U::PAIRS { 1 } else { 2 }
}

/// Writes a word of memory as the unit reads it: a pair of bf16 is two words where it multiplies f32.
fn put<U: Tiles, const WIDE: bool>(panel: &mut [u32], layout: Layout, pair: usize, line: usize, word: u32) {
    if WIDE || U::PAIRS {
        panel[layout.place(pair, line)] = word;
    } else {
        panel[layout.place(2 * pair, line)] = word & 0xffff_0000;
        panel[layout.place(2 * pair + 1, line)] = word << 16;
    }
}

/// Writes 4 words of each of 4 lines, which lie together by 2, or by 4 and more.
///
/// # Safety
/// The panel has room for them.
#[inline(always)]
unsafe fn put_square(panel: *mut u32, layout: Layout, word: usize, line: usize, lines: [four::Four; 4]) {
    // SAFETY: the caller's promise.
    unsafe {
        if layout.together == 2 {
            for i in [0, 2] {
                let [first, last] = four::by_halves(lines[i], lines[i + 1]);
                four::store(panel.add(layout.place(word, line + i)), first);
                four::store(panel.add(layout.place(word + 2, line + i)), last);
            }
        } else {
            let store = |i: usize| four::store(panel.add(layout.place(word, line + i)), lines[i]);
            (0..4).for_each(store);
        }
    }
}

/// [`put`] of 4 lines.
///
/// # Safety
/// The panel has room for them.
#[inline(always)]
unsafe fn put_four<U: Tiles, const WIDE: bool>(
    panel: *mut u32,
    width: usize,
    pair: usize,
    line: usize,
    words: four::Four,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if WIDE || U::PAIRS {
            four::store(panel.add(pair * width + line), words);
        } else {
            four::store(panel.add(2 * pair * width + line), four::seconds(words));
            four::store(panel.add((2 * pair + 1) * width + line), four::firsts(words));
        }
    }
}
