// Master weights as two halves: a copy in bf16 that is computed with, and the lower 16 bits, which the copy leaves out.
//
// The copy is the upper half of (bits + r), r below 2^16. With r and the lower half at hand the carry is known, and so is the
// upper half: nothing else has to be kept of an f32, and ops compute with bf16 as it is.
#pragma once

#include "vector.cuh"

namespace ENGINE_NAMESPACE {

/// What is added to a weight's bits before the lower half is cut off: 16 random bits that follow from the element's index and the
/// step's number; with step 0, what rounds to nearest.
__device__ inline uint32_t rounding(uint64_t index, uint32_t step) {
    if (step == 0) return 0x7fff;
    uint32_t h = static_cast<uint32_t>(index) ^ static_cast<uint32_t>(index >> 32) * 0x9e3779b9u ^ step * 0x85ebca6bu;
    h ^= h >> 16, h *= 0x7feb352du;
    h ^= h >> 15, h *= 0x846ca68bu;
    return h >> 16;
}

/// W weights in halves, as they lie in memory.
template <uint32_t W> struct Halves {
    Vector<bf16, W> copy;
    Vector<uint16_t, W> lower;

    Halves() = default;

    __device__ Halves(const bf16 *copies, const uint16_t *lowers) {
        check(copies, lowers);
        copy = *reinterpret_cast<const Vector<bf16, W> *>(copies);
        lower = *reinterpret_cast<const Vector<uint16_t, W> *>(lowers);
    }

    __device__ void store(bf16 *copies, uint16_t *lowers) const {
        check(copies, lowers);
        *reinterpret_cast<Vector<bf16, W> *>(copies) = copy;
        *reinterpret_cast<Vector<uint16_t, W> *>(lowers) = lower;
    }

    /// The halves of weight i of these, which has this index among all.
    __device__ void split(float x, uint32_t i, uint64_t index, uint32_t step) {
        uint32_t bits = bits_of(x);
        if ((bits & 0x7f800000u) == 0x7f800000u) { // infinities and NaN
            copy.at[i] = from_float<bf16>(x), lower.at[i] = 0;
            return;
        }
        // Of two weights that a tie rounds to the same copy, the one below goes a little up: it could not be told from the other.
        if (step == 0 && (bits & 0x1ffff) == 0x18000) bits++;
        copy.at[i].bits = static_cast<uint16_t>((bits + rounding(index, step)) >> 16);
        lower.at[i] = static_cast<uint16_t>(bits);
    }

    /// Weight i of these again, by the step that split it.
    __device__ float join(uint32_t i, uint64_t index, uint32_t step) const {
        uint32_t low = lower.at[i], carry = (low + rounding(index, step)) >> 16;
        return float_of((copy.at[i].bits - carry) << 16 | low);
    }

  private:
    __device__ static void check([[maybe_unused]] const bf16 *copies, [[maybe_unused]] const uint16_t *lowers) {
#ifndef __CUDACC__
        emulator::check_alignment(copies, sizeof(Vector<bf16, W>));
        emulator::check_alignment(lowers, sizeof(Vector<uint16_t, W>));
#endif
    }
};

} // namespace ENGINE_NAMESPACE
