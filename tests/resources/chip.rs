//! What a multiprocessor (SM) has, and how many warps of a kernel it holds at once.

/// One of the architectures that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chip {
    Sm80,
    Sm90a,
}

/// Warps that an SM holds at most: 100% occupancy.
pub const WARPS: u32 = 64;
const THREADS_OF_A_WARP: u32 = 32;
const BLOCKS: u32 = 32;
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
            Self::Sm90a => "sm_90a",
        }
    }

    /// Bytes of shared memory of an SM.
    fn shared(self) -> u32 {
        match self {
            Self::Sm80 => 164 * 1024,
            Self::Sm90a => 228 * 1024,
        }
    }

    /// Bytes of shared memory that one block can have, static and dynamic.
    pub fn shared_of_a_block(self) -> u32 {
        self.shared() - SHARED_RESERVED
    }

    /// Warps of a kernel that an SM holds at once: as many blocks as its warps, registers, shared memory and block slots
    /// allow. 0: a block does not fit.
    ///
    /// Limits: CUDA C++ programming guide, "Compute capabilities", technical specifications of 8.0 and 9.0. Units and
    /// rounding: NVIDIA's `cuda_occupancy.h` (cudaOccMaxBlocksPerSM*Limit), with which this agreed on 3,753,600
    /// combinations of chip, block, registers and shared memory (CUDA 13.0).
    pub fn warps(self, block: u32, registers: u32, shared: u32) -> u32 {
        let warps = block.div_ceil(THREADS_OF_A_WARP);
        let registers_of_a_warp = (registers * THREADS_OF_A_WARP).next_multiple_of(REGISTER_UNIT).max(REGISTER_UNIT);
        if warps.next_multiple_of(PARTITIONS) * registers_of_a_warp > REGISTERS || shared > self.shared_of_a_block() {
            return 0;
        }
        let by_registers = REGISTERS / PARTITIONS / registers_of_a_warp * PARTITIONS / warps;
        let by_shared = self.shared() / (shared + SHARED_RESERVED).next_multiple_of(SHARED_UNIT);
        BLOCKS.min(WARPS / warps).min(by_registers).min(by_shared) * warps
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
    ] {
        assert_eq!(chip.warps(block, registers, shared), warps, "{chip:?}, {block}, {registers}, {shared}");
    }
}
