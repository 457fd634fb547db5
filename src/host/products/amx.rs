//! AMX: 8 registers of 16 rows by 64 bytes. One instruction multiplies 16 rows of 16 pairs of bf16 by 16 columns of as many:
//! 16 times what AVX512-BF16 does.
//!
//! In assembly, for the intrinsics are not stable, and because no compiler knows what is in a tile between two of them.
//! Intel's manual says what `tdpbf16ps` computes: the first terms of 16 pairs are summed by fused multiply-adds, so are the
//! second ones, both sums are added, and that is added to the tile; what is smaller than 2^-126 is 0.
//! [`Squares`](super::portable_squares::Squares) does the same in plain Rust.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::avx512::Avx512Bf16;
use super::tile::Tile;
use super::tiles::Tiles;

/// AMX with bf16, and AVX512-BF16 for all that is not a tile.
#[derive(Clone, Copy)]
pub(super) struct Amx(Avx512Bf16);

/// Rows of a tile register, and its words: 64 bytes are the pairs of a row of a, or a word of 16 columns of b.
const SIDE: usize = 16;

/// What `ldtilecfg` reads: 8 tiles of 16 rows by 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut register = 0;
    while register < 8 {
        (row_bytes[register], rows[register]) = (64, SIDE as u8);
        register += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

impl Amx {
    /// Asks Linux for the registers, which it gives to a process that wants them.
    pub fn new() -> Option<Self> {
        static IS_PERMITTED: OnceLock<bool> = OnceLock::new();
        let vectors = Avx512Bf16::new()?;
        IS_PERMITTED.get_or_init(|| exists() && is_permitted()).then_some(Self(vectors))
    }
}

/// Whether the chip has AMX-TILE and AMX-BF16.
fn exists() -> bool {
    const FEATURES: u32 = 7;
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    // An `unsafe fn` until Rust 1.93.
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 has this instruction; its 0 is the highest leaf.
    let has =
        unsafe { __cpuid_count(0, 0).eax >= FEATURES && __cpuid_count(FEATURES, 0).edx & (BF16 | TILE) == BF16 | TILE };
    has
}

fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: two numbers; nothing in memory is read or written.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// `sums (32, 32) = or += a b`, of 16 words at a time. a is two registers (rows by words), b two (words by columns), sums four.
///
/// # Safety
/// Panels and sums are there as [`Tile`] says; there is AMX.
#[inline(always)]
unsafe fn sums(job: &Tile) {
    debug_assert!(job.steps.is_multiple_of(SIDE));
    // SAFETY: the caller's promise: 2048 bytes of a and of b for each 16 words, 4096 of sums.
    unsafe {
        asm!(
            "ldtilecfg [{config}]", // all tiles are 0 now
            "test {add:e}, {add:e}",
            "jz 2f",
            "tileloadd tmm0, [{sums} + {of_columns}]",
            "tileloadd tmm1, [{sums} + {of_columns} + 64]",
            "tileloadd tmm2, [{sums} + {of_columns} + 2048]",
            "tileloadd tmm3, [{sums} + {of_columns} + 2112]",
            "2:",
            "test {left}, {left}",
            "jz 4f",
            "3:",
            "tileloadd tmm4, [{a} + {of_words}]",
            "tileloadd tmm6, [{b} + {of_columns}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {of_columns} + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {of_words} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 2048",
            "add {b}, 2048",
            "dec {left}",
            "jnz 3b",
            "4:",
            "tilestored [{sums} + {of_columns}], tmm0",
            "tilestored [{sums} + {of_columns} + 64], tmm1",
            "tilestored [{sums} + {of_columns} + 2048], tmm2",
            "tilestored [{sums} + {of_columns} + 2112], tmm3",
            "tilerelease", // or every switch of threads would save them
            config = in(reg) &raw const CONFIG,
            add = in(reg) u32::from(job.add),
            left = inout(reg) job.steps / SIDE => _,
            a = inout(reg) job.a => _,
            b = inout(reg) job.b => _,
            sums = in(reg) job.sums,
            // Bytes from one row of a register to the next.
            of_words = in(reg) 4 * SIDE,
            of_columns = in(reg) 4 * Amx::COLS,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

impl Tiles for Amx {
    const PAIRS: bool = true;
    const ROWS: usize = 2 * SIDE;
    const COLS: usize = 2 * SIDE;
    const TOGETHER: [usize; 2] = [SIDE, 1];
    type Vectors = Avx512Bf16;

    fn vectors(self) -> Avx512Bf16 {
        self.0
    }

    unsafe fn tile(self, job: &Tile) {
        #[target_feature(enable = "avx512f,avx512vl,avx512bf16")]
        unsafe fn compiled(unit: Avx512Bf16, job: &Tile) {
            job.fetch();
            // SAFETY: the caller's promise.
            unsafe {
                sums(job);
                job.finish(unit);
            }
        }
        // SAFETY: whoever holds a unit may use it; the caller's promise.
        unsafe { compiled(self.0, job) };
    }

    fn spin(self, steps: usize) -> usize {
        // SAFETY: there is AMX; nothing in memory is written.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {left}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &raw const CONFIG,
                left = inout(reg) steps.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
        let pairs = 4 * SIDE * SIDE * SIDE;
        steps.max(1) * 4 * pairs
    }
}
