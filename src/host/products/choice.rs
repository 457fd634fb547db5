//! Which kernel multiplies: the best one that this machine has, that computes what it should, and that is not slow here.
//!
//! CPUID says what exists, not what is fast: there are chips whose AVX-512 halves the clock. So each kernel that
//! exists computes one tile, which is compared with plain sums, and is timed on it: a few milliseconds, once. The list of
//! kernels is in order of preference, and one further down is taken only where it is clearly faster: two runs on one
//! machine must not choose differently because something else was running.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::pack::Layout;
use super::tile::Tile;
use super::tiles::Tiles;

/// `with_unit_if_any!(kernel, unit => expression, else other)`: an expression of the kernel's unit, which is None where the machine does
/// not have it; the other one where no machine of this kind has.
macro_rules! with_unit_if_any {
    ($kernel:expr, $unit:ident => $body:expr, else $other:expr) => {
        match $kernel {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kernel::Amx => {
                let $unit = $crate::host::products::amx::Amx::new();
                $body
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bf16 => {
                let $unit = $crate::host::products::avx512::Avx512Bf16::new();
                $body
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => {
                let $unit = $crate::host::products::avx512::Avx512::new();
                $body
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => {
                let $unit = $crate::host::products::avx2::Avx2::new();
                $body
            }
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonBf16 => {
                let $unit = $crate::host::products::neon::NeonBf16::new();
                $body
            }
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => {
                let $unit = Some($crate::host::products::neon::Neon);
                $body
            }
            Kernel::Portable => {
                let $unit = Some($crate::host::products::portable::Portable);
                $body
            }
            Kernel::PortablePairs => {
                let $unit = Some($crate::host::products::portable::PortablePairs);
                $body
            }
            Kernel::PortableAmx => {
                let $unit = Some($crate::host::products::portable_squares::OfAmx {});
                $body
            }
            Kernel::PortableBfmmla => {
                let $unit = Some($crate::host::products::portable_squares::OfBfmmla {});
                $body
            }
            #[allow(unreachable_patterns)]
            _ => $other,
        }
    };
}
pub(super) use with_unit_if_any;

/// `with_unit!(kernel, function(arguments))`: calls a function with the kernel's unit and the arguments.
macro_rules! with_unit {
    ($kernel:expr, $($function:ident)::+ ($($argument:expr),*)) => {
        $crate::host::products::choice::with_unit_if_any!(
            $kernel,
            unit => $($function)::+(unit.expect("this machine does not have that kernel"), $($argument),*),
            else panic!("no machine of this kind has that kernel")
        )
    };
}
pub(super) use with_unit;

/// The environment variable that names the kernel: for tests, and to compare.
pub const VARIABLE: &str = "ENGINE_CPU_PRODUCTS";

/// What multiplies in this process, once that is known.
static CHOSEN: RwLock<Option<Kernel>> = RwLock::new(None);

/// What multiplies, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// 16 rows of 16 pairs of bf16 by 16 columns an instruction.
    Amx,
    /// 16 pairs of bf16 an instruction.
    Avx512Bf16,
    /// 16 lanes of f32.
    Avx512,
    /// 8 lanes of f32.
    Avx2,
    /// 2 rows of 2 pairs of bf16 by 2 columns an instruction.
    NeonBf16,
    /// 4 lanes of f32.
    Neon,
    /// Plain Rust.
    Portable,
    /// Plain Rust that does what `Avx512Bf16` does, slowly: never chosen, for tests on machines without it.
    PortablePairs,
    /// The same for `Amx`.
    PortableAmx,
    /// Plain Rust with the tiles of `NeonBf16`.
    PortableBfmmla,
}

impl Kernel {
    pub const ALL: [Self; 10] = [
        Self::Amx,
        Self::Avx512Bf16,
        Self::Avx512,
        Self::Avx2,
        Self::NeonBf16,
        Self::Neon,
        Self::Portable,
        Self::PortablePairs,
        Self::PortableAmx,
        Self::PortableBfmmla,
    ];

    /// As [`VARIABLE`] names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::NeonBf16 => "neonbf16",
            Self::Neon => "neon",
            Self::Portable => "portable",
            Self::PortablePairs => "portable-pairs",
            Self::PortableAmx => "portable-amx",
            Self::PortableBfmmla => "portable-bfmmla",
        }
    }

    /// Whether this machine has its instructions.
    pub fn is_available(self) -> bool {
        with_unit_if_any!(self, unit => unit.is_some(), else false)
    }

    /// What multiplies numbers in f32 with the same registers.
    pub fn in_f32(self) -> Self {
        match self {
            Self::Amx | Self::Avx512Bf16 => Self::Avx512,
            Self::NeonBf16 => Self::Neon,
            Self::PortablePairs | Self::PortableAmx | Self::PortableBfmmla => Self::Portable,
            other => other,
        }
    }

    /// The kernel of this machine, or the one that [`VARIABLE`] names.
    ///
    /// # Panics
    /// When that names none, or one that this machine does not have.
    pub fn chosen() -> Self {
        if let Some(kernel) = *CHOSEN.read().unwrap_or_else(PoisonError::into_inner) {
            return kernel;
        }
        let mut chosen = CHOSEN.write().unwrap_or_else(PoisonError::into_inner);
        *chosen.get_or_insert_with(|| match std::env::var(VARIABLE) {
            Ok(name) => Self::named(&name),
            Err(_) => Self::measured(),
        })
    }

    /// From now on this process multiplies with the kernel of this name: a run that goes on is then equal to the bit. False: this
    /// machine does not have it, or [`VARIABLE`] names another.
    pub fn choose(name: &str) -> bool {
        let kernel = Self::ALL.into_iter().find(|kernel| kernel.name() == name && kernel.is_available());
        let Some(kernel) = kernel.filter(|kernel| with_unit!(*kernel, Trial::new()).is_some()) else {
            return false;
        };
        let is_free = std::env::var(VARIABLE).is_ok_and(|other| other == name) || std::env::var_os(VARIABLE).is_none();
        if is_free {
            *CHOSEN.write().unwrap_or_else(PoisonError::into_inner) = Some(kernel);
        }
        is_free
    }

    /// The best kernel of this machine, measured now; None where [`VARIABLE`] names one.
    pub fn of_machine() -> Option<Self> {
        std::env::var_os(VARIABLE).is_none().then(Self::measured)
    }

    fn named(name: &str) -> Self {
        let names = Self::ALL.map(Self::name).join("`, `");
        let kernel = Self::ALL.into_iter().find(|kernel| kernel.name() == name);
        let kernel = kernel.unwrap_or_else(|| panic!("{VARIABLE} is `{name}`: it can be `{names}`"));
        assert!(kernel.is_available(), "{VARIABLE} is `{name}`, which this machine does not have");
        kernel
    }

    fn measured() -> Self {
        let candidates = Self::ALL.into_iter().take_while(|kernel| *kernel != Self::Portable);
        let mut trials: Vec<(Self, Trial)> = candidates
            .filter(|kernel| kernel.is_available())
            .filter_map(|kernel| Some((kernel, with_unit!(kernel, Trial::new())?)))
            .collect();
        // In turn, so that what else runs disturbs all alike.
        for _ in 0..ROUNDS {
            trials.iter_mut().for_each(|(_, trial)| trial.time());
        }
        let rates = trials.iter().map(|(kernel, trial)| (*kernel, trial.rate()));
        fastest(rates.collect()).unwrap_or(Self::Portable)
    }
}

/// The first one that none further down beats by MARGIN.
fn fastest(rates: Vec<(Kernel, f64)>) -> Option<Kernel> {
    const MARGIN: f64 = 1.2;
    let beaten = |at: usize| rates[at + 1..].iter().any(|(_, rate)| *rate > MARGIN * rates[at].1);
    (0..rates.len()).find(|&at| !beaten(at)).map(|at| rates[at].0)
}

/// How often each kernel is timed: the fastest time counts.
const ROUNDS: usize = 8;

/// Words of the tile that is computed.
const STEPS: usize = 320;

/// Computes the tile's sums.
type Run = Box<dyn Fn(&mut [f32])>;

/// A kernel at work on one tile.
struct Trial {
    run: Run,
    sums: Vec<f32>,
    flop: f64,
    best: Duration,
}

impl Trial {
    /// None when the kernel does not compute what it should.
    fn new<U: Tiles + 'static>(unit: U) -> Option<Self> {
        let a: Vec<u32> = (0..STEPS * U::ROWS).map(|i| word::<U>(i as u32)).collect();
        let b: Vec<u32> = (0..STEPS * U::COLS).map(|i| word::<U>(!(i as u32))).collect();
        let expected = plain_sums::<U>(&a, &b);
        let run = move |sums: &mut [f32]| {
            assert_eq!(sums.len(), U::ROWS * U::COLS);
            let sums = sums.as_mut_ptr();
            let (a, b) = (a.as_ptr(), b.as_ptr());
            let job = Tile { steps: STEPS, a, b, sums, add: false, finish: None, ahead: Default::default() };
            // SAFETY: panels of STEPS words of each row and column, and room for all sums.
            unsafe { unit.tile(&job) };
        };
        let mut sums = vec![f32::NAN; expected.len()];
        run(&mut sums);
        let terms = if U::PAIRS { 2 * STEPS } else { STEPS };
        // Each of `terms` additions rounds by at most 2^-23 of a sum that is below `terms`.
        let tolerance = (terms * terms) as f64 * f64::from(f32::EPSILON);
        let right = sums.iter().zip(&expected).all(|(sum, plain)| (f64::from(*sum) - plain).abs() <= tolerance);
        let flop = 2.0 * (terms * expected.len()) as f64;
        right.then_some(Self { run: Box::new(run), sums, flop, best: Duration::MAX })
    }

    fn time(&mut self) {
        const TILES: u32 = 16;
        let started = Instant::now();
        (0..TILES).for_each(|_| (self.run)(&mut self.sums));
        self.best = self.best.min(started.elapsed() / TILES);
    }

    /// FLOP a second.
    fn rate(&self) -> f64 {
        self.flop / self.best.as_secs_f64()
    }
}

/// A word of numbers in -1..1 that look random.
fn word<U: Tiles>(i: u32) -> u32 {
    let number = |i: u32| (i.wrapping_mul(2_654_435_769) as i32 as f32 / 2f32.powi(31)).to_bits() & 0xffff_0000;
    if U::PAIRS { number(i) | number(i.rotate_right(16)) >> 16 } else { number(i) }
}

/// The tile's sums, in f64.
fn plain_sums<U: Tiles>(a: &[u32], b: &[u32]) -> Vec<f64> {
    let number = |word: u32| f64::from(f32::from_bits(word));
    let product = |a: u32, b: u32| {
        let second = number(a & 0xffff_0000) * number(b & 0xffff_0000);
        if U::PAIRS { second + number(a << 16) * number(b << 16) } else { second }
    };
    let [of_a, of_b] =
        [(U::ROWS, U::TOGETHER[0]), (U::COLS, U::TOGETHER[1])].map(|(width, together)| Layout { width, together });
    let sum = |at: usize| {
        let (row, col) = (at / U::COLS, at % U::COLS);
        (0..STEPS).map(|step| product(a[of_a.place(step, row)], b[of_b.place(step, col)])).sum()
    };
    (0..U::ROWS * U::COLS).map(sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_further_down_is_taken_only_where_it_is_clearly_faster() {
        use Kernel::{Avx2, Avx512, Avx512Bf16};
        let chosen = |rates: [f64; 3]| fastest([Avx512Bf16, Avx512, Avx2].into_iter().zip(rates).collect());
        assert_eq!(chosen([2.0, 1.0, 0.9]), Some(Avx512Bf16));
        assert_eq!(chosen([1.0, 1.1, 1.0]), Some(Avx512Bf16));
        assert_eq!(chosen([1.0, 2.0, 1.0]), Some(Avx512));
        assert_eq!(chosen([1.0, 1.0, 1.3]), Some(Avx2));
        assert_eq!(fastest(vec![]), None);
    }

    #[test]
    fn every_kernel_of_this_machine_passes_its_trial() {
        for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
            assert!(with_unit!(kernel, Trial::new()).is_some(), "{}", kernel.name());
        }
    }
}
