// Asynchronous copies and the tensor cores' bf16 product: one wrapper each, with a PTX body and a host body.
//
// A warp holds tiles in fragments (PTX ISA, "Matrix Fragments for mma.m16n8k16"). With g = lane / 4, t = lane % 4:
//   a (16, 16)  a[0]: row g      columns 2t, 2t+1     a[1]: row g + 8, the same columns
//               a[2]: row g      columns 2t+8, 2t+9   a[3]: row g + 8, the same columns
//   b (16, 8)   b[0]: rows 2t, 2t+1, column g         b[1]: rows 2t+8, 2t+9, column g
//   c (16, 8)   c[0], c[1]: row g, columns 2t, 2t+1   c[2], c[3]: row g + 8, the same columns
// A register holds two bf16, the one of the lower index in its lower half.
#pragma once

#include "vector.cuh"

namespace ENGINE_NAMESPACE {

/// Starts to copy 16 bytes from global to shared memory; both addresses are multiples of 16.
__device__ inline void copy_async_16(void *to_shared, const void *from_global) {
#ifdef __CUDACC__
    uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from_global) : "memory");
#else
    emulator::check_alignment(to_shared, 16);
    emulator::check_alignment(from_global, 16);
    emulator::copy_async(to_shared, from_global, 16);
#endif
}

/// copy_async_16, and what it reads is the first to leave the cache: nobody reads it there again soon.
__device__ inline void copy_async_16_streaming(void *to_shared, const void *from_global) {
#ifdef __CUDACC__
    uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
    uint64_t first; // to leave
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(first));
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from_global), "l"(first)
                 : "memory");
#else
    copy_async_16(to_shared, from_global);
#endif
}

/// copy_async_16, or 16 bytes of zeros: then nothing is read, and `from_global` is any address of global memory.
__device__ inline void copy_async_16_or_zero(void *to_shared, const void *from_global, bool copy) {
#ifdef __CUDACC__
    uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared)), bytes = copy ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from_global), "r"(bytes) : "memory");
#else
    alignas(16) static const unsigned char zeros[16] = {};
    copy_async_16(to_shared, copy ? from_global : zeros);
#endif
}

/// Closes the group of copies started since the last call.
__device__ inline void copy_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emulator::copy_commit();
#endif
}

/// Waits until all but the newest PENDING groups of this thread have arrived. Others see them after a barrier.
template <uint32_t PENDING> __device__ inline void copy_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#else
    emulator::copy_wait(PENDING);
#endif
}

#ifndef __CUDACC__
/// Four 8 x 8 tiles: lane 8i + r says where row r of tile i lies; `pick(tile, lane, half)` is the element a lane gets.
template <class Pick>
void emulated_ldmatrix(uint32_t (&fragment)[4], const bf16 *row, const emulator::Site &site, const Pick &pick) {
    emulator::check_alignment(row, 16);
    struct Registers {
        uint32_t at[4];
    };
    auto work = [&](const bf16 *const *rows, Registers *out) {
        for (uint32_t lane = 0; lane < WARP; lane++)
            for (uint32_t tile = 0; tile < 4; tile++)
                out[lane].at[tile] = pick(rows + 8 * tile, lane, 0) | uint32_t(pick(rows + 8 * tile, lane, 1)) << 16;
    };
    auto registers = emulator::warp_meet<Registers>(row, site, work);
    memcpy(fragment, registers.at, sizeof fragment);
}
#endif

/// Loads four 8 x 8 tiles of bf16 from shared memory. Lanes 8i .. 8i+7 pass the addresses (multiples of 16) of the rows
/// of tile i; fragment[i] of lane l gets row l / 4, columns 2 (l % 4) and the next, of tile i.
__device__ inline void ldmatrix(uint32_t (&fragment)[4], const bf16 *row) {
#ifdef __CUDACC__
    uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(from)
                 : "memory");
#else
    emulated_ldmatrix(fragment, row, emulator::Site::current(), [](const bf16 *const *rows, uint32_t lane, uint32_t half) {
        return rows[lane / 4][2 * (lane % 4) + half].bits;
    });
#endif
}

/// ldmatrix of the transposed tiles: fragment[i] of lane l gets column l / 4, rows 2 (l % 4) and the next.
__device__ inline void ldmatrix_transposed(uint32_t (&fragment)[4], const bf16 *row) {
#ifdef __CUDACC__
    uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(from)
                 : "memory");
#else
    emulated_ldmatrix(fragment, row, emulator::Site::current(), [](const bf16 *const *rows, uint32_t lane, uint32_t half) {
        return rows[2 * (lane % 4) + half][lane / 4].bits;
    });
#endif
}

#ifndef __CUDACC__
struct MmaFragments {
    uint32_t a[4], b[2];
    float c[4];

    static float half_of(uint32_t word, uint32_t half) { return to_float(bf16{uint16_t(word >> 16 * half)}); }
};

/// c += a b of one warp, from every lane's fragments.
inline void emulated_mma(const MmaFragments *lanes, Vector<float, 4> *out) {
    float a[16][16], b[16][8];
    for (uint32_t lane = 0; lane < WARP; lane++) {
        uint32_t g = lane / 4, t = lane % 4;
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t half = 0; half < 2; half++)
                a[g + i % 2 * 8][2 * t + i / 2 * 8 + half] = MmaFragments::half_of(lanes[lane].a[i], half);
        for (uint32_t i = 0; i < 2; i++)
            for (uint32_t half = 0; half < 2; half++)
                b[2 * t + i * 8 + half][g] = MmaFragments::half_of(lanes[lane].b[i], half);
    }
    for (uint32_t lane = 0; lane < WARP; lane++)
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
            float sum = lanes[lane].c[i];
            for (uint32_t k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            out[lane].at[i] = sum;
        }
}
#endif

/// Both rounded to bf16, `low` in the lower half.
__device__ inline uint32_t pack_bf16(float low, float high) {
#ifdef __CUDA_ARCH__
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    return from_float<bf16>(low).bits | uint32_t(from_float<bf16>(high).bits) << 16;
#endif
}

/// c (16, 8) f32 += a (16, 16) bf16 b (16, 8) bf16, by the whole warp.
__device__ inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    MmaFragments in;
    memcpy(in.a, a, sizeof in.a);
    memcpy(in.b, b, sizeof in.b);
    memcpy(in.c, c, sizeof in.c);
    auto sums = emulator::warp_meet<Vector<float, 4>>(in, emulator::Site::current(), emulated_mma);
    memcpy(c, sums.at, sizeof sums.at);
#endif
}

} // namespace ENGINE_NAMESPACE
