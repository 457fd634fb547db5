//! What a multiprocessor (SM) has, and how many warps of a kernel it holds at once.

/// One of the architectures that kernels are compiled for. sm_89 runs what sm_86 does, under the same limits but for more
/// blocks at once; every later minor number of 10 and 12 has the limits of .0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chip {
    Sm80,
    Sm86,
    Sm90a,
    Sm100,
    Sm120,
}

const CHIPS: [Chip; 5] = [Chip::Sm80, Chip::Sm86, Chip::Sm90a, Chip::Sm100, Chip::Sm120];
const THREADS_OF_A_WARP: u32 = 32;
const REGISTERS: u32 = 65536;
/// An SM's four schedulers have a quarter of the registers each; a warp lives in one quarter.
const PARTITIONS: u32 = 4;
/// Registers are given to warps in units of this many, shared memory to blocks in bytes.
const REGISTER_UNIT: u32 = 256;
const SHARED_UNIT: u32 = 128;
/// What the driver keeps for itself of each block's shared memory.
const SHARED_RESERVED: u32 = 1024;

impl Chip {
    /// As nvcc calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sm80 => "sm_80",
            Self::Sm86 => "sm_86",
            Self::Sm90a => "sm_90a",
            Self::Sm100 => "sm_100",
            Self::Sm120 => "sm_120",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        CHIPS.into_iter().find(|chip| chip.name() == name)
    }

    /// The PTX that its machine code is made of.
    #[cfg(engine_cuda)]
    pub fn virtual_chip(self) -> &'static str {
        if self == Self::Sm90a { "compute_90a" } else { "compute_80" }
    }

    /// Bytes of shared memory of an SM.
    fn shared(self) -> u32 {
        match self {
            Self::Sm80 => 164 * 1024,
            Self::Sm86 | Self::Sm120 => 100 * 1024,
            Self::Sm90a | Self::Sm100 => 228 * 1024,
        }
    }

    /// Warps that an SM holds at most: 100% occupancy.
    pub fn most_warps(self) -> u32 {
        match self {
            Self::Sm86 | Self::Sm120 => 48,
            Self::Sm80 | Self::Sm90a | Self::Sm100 => 64,
        }
    }

    /// Blocks that an SM holds at most.
    fn most_blocks(self) -> u32 {
        match self {
            Self::Sm86 => 16,
            Self::Sm120 => 24,
            Self::Sm80 | Self::Sm90a | Self::Sm100 => 32,
        }
    }

    /// Bytes of shared memory that one block can have, static and dynamic.
    pub fn shared_of_a_block(self) -> u32 {
        self.shared() - SHARED_RESERVED
    }

    /// Warps of a kernel that an SM holds at once: as many blocks as its warps, registers, shared memory and block slots
    /// allow. 0: a block does not fit.
    ///
    /// Limits: CUDA C++ programming guide, "Compute capabilities", technical specifications. Units and rounding: NVIDIA's
    /// `cuda_occupancy.h` (cudaOccMaxBlocksPerSM*Limit), with which this agreed on 9,523,200 combinations of chip, block,
    /// registers and shared memory (CUDA 13.0).
    pub fn warps(self, block: u32, registers: u32, shared: u32) -> u32 {
        let warps = block.div_ceil(THREADS_OF_A_WARP);
        let registers_of_a_warp = (registers * THREADS_OF_A_WARP).next_multiple_of(REGISTER_UNIT).max(REGISTER_UNIT);
        if warps.next_multiple_of(PARTITIONS) * registers_of_a_warp > REGISTERS || shared > self.shared_of_a_block() {
            return 0;
        }
        let by_registers = REGISTERS / PARTITIONS / registers_of_a_warp * PARTITIONS / warps;
        let by_shared = self.shared() / (shared + SHARED_RESERVED).next_multiple_of(SHARED_UNIT);
        self.most_blocks().min(self.most_warps() / warps).min(by_registers).min(by_shared) * warps
    }
}

#[test]
fn occupancy_is_what_cuda_says() {
    // Computed with cuda_occupancy.h of CUDA 13.0.
    for (chip, block, registers, shared, warps) in [
        (Chip::Sm80, 256, 32, 0, 64),
        (Chip::Sm80, 32, 16, 0, 32),
        (Chip::Sm80, 48, 40, 14217, 20),
        (Chip::Sm90a, 48, 40, 14217, 30),
        (Chip::Sm80, 96, 72, 0, 27),
        (Chip::Sm80, 128, 64, 203100, 0),
        (Chip::Sm90a, 128, 64, 203100, 4),
        (Chip::Sm90a, 128, 255, 81240, 8),
        (Chip::Sm80, 256, 128, 91395, 8),
        (Chip::Sm90a, 256, 128, 91395, 16),
        (Chip::Sm90a, 256, 168, 0, 8),
        (Chip::Sm90a, 1024, 64, 0, 32),
        (Chip::Sm90a, 1024, 65, 0, 0),
        (Chip::Sm86, 256, 32, 0, 48),
        (Chip::Sm86, 32, 16, 0, 16),
        (Chip::Sm86, 1024, 40, 524, 32),
        (Chip::Sm86, 64, 229, 42240, 4),
        (Chip::Sm86, 128, 64, 101376, 4),
        (Chip::Sm86, 128, 64, 101377, 0),
        (Chip::Sm100, 256, 32, 0, 64),
        (Chip::Sm100, 128, 64, 203100, 4),
        (Chip::Sm100, 256, 128, 91395, 16),
        (Chip::Sm120, 32, 16, 0, 24),
        (Chip::Sm120, 256, 76, 0, 24),
        (Chip::Sm120, 512, 98, 49152, 16),
        (Chip::Sm120, 128, 64, 101377, 0),
    ] {
        assert_eq!(chip.warps(block, registers, shared), warps, "{chip:?}, {block}, {registers}, {shared}");
    }
}
