// bf16, accesses of 16 bytes, and the choice of a kernel's instance by dtype and alignment.
#pragma once

#include <initializer_list>

#include "platform.cuh"

namespace ENGINE_NAMESPACE {

/// The upper half of an f32.
struct bf16 {
    uint16_t bits;
};

/// The number of these bits.
__host__ __device__ inline float float_of(uint32_t bits) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

/// The bits of a number.
__host__ __device__ inline uint32_t bits_of(float x) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(x);
#else
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
#endif
}

__host__ __device__ inline float to_float(float x) { return x; }

__host__ __device__ inline float to_float(bf16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

template <class T> __device__ T from_float(float x);

template <> __device__ inline float from_float<float>(float x) { return x; }

/// Rounds to nearest, ties to even.
template <> __device__ inline bf16 from_float<bf16>(float x) {
#ifdef __CUDA_ARCH__
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#else
    uint32_t bits = bits_of(x);
    if (x != x) return bf16{0x7fff};
    return bf16{static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}

/// W consecutive elements, moved by one access.
template <class T, uint32_t W> struct alignas(sizeof(T) * W) Vector {
    T at[W];
};

/// Elements that one access moves when W are wanted: no access is wider than 16 bytes.
template <class T, uint32_t W> constexpr uint32_t PART = sizeof(T) * W > 16 ? 16 / sizeof(T) : W;

template <class T, uint32_t W> __device__ inline void load(float (&x)[W], const T *from) {
    constexpr uint32_t P = PART<T, W>;
#ifndef __CUDACC__
    emulator::check_alignment(from, sizeof(T) * P);
#endif
#pragma unroll
    for (uint32_t i = 0; i < W; i += P) {
        Vector<T, P> vector = *reinterpret_cast<const Vector<T, P> *>(from + i);
#pragma unroll
        for (uint32_t j = 0; j < P; j++) x[i + j] = to_float(vector.at[j]);
    }
}

template <class T, uint32_t W> __device__ inline void store(T *to, const float (&x)[W]) {
    constexpr uint32_t P = PART<T, W>;
#ifndef __CUDACC__
    emulator::check_alignment(to, sizeof(T) * P);
#endif
#pragma unroll
    for (uint32_t i = 0; i < W; i += P) {
        Vector<T, P> vector;
#pragma unroll
        for (uint32_t j = 0; j < P; j++) vector.at[j] = from_float<T>(x[i + j]);
        *reinterpret_cast<Vector<T, P> *>(to + i) = vector;
    }
}

/// store, and what it writes is the first to leave the cache: nobody reads it soon.
template <class T, uint32_t W> __device__ inline void store_streaming(T *to, const float (&x)[W]) {
#ifdef __CUDACC__
    if constexpr (sizeof(T) * W == sizeof(uint4)) {
        Vector<T, W> vector;
#pragma unroll
        for (uint32_t j = 0; j < W; j++) vector.at[j] = from_float<T>(x[j]);
        uint4 bits;
        memcpy(&bits, &vector, sizeof bits);
        __stcs(reinterpret_cast<uint4 *>(to), bits);
        return;
    }
#endif
    store(to, x);
}

/// A vector of at most 16 bytes as it is in memory, in as few registers as it fills.
template <class T, uint32_t W> struct Packed {
    static_assert(sizeof(T) * W <= 16);
    uint32_t words[(sizeof(T) * W + 3) / 4];

    __device__ void load(const T *from) {
#ifndef __CUDACC__
        emulator::check_alignment(from, sizeof(Vector<T, W>));
#endif
        Vector<T, W> vector = *reinterpret_cast<const Vector<T, W> *>(from);
        memcpy(words, &vector, sizeof vector);
    }

    /// The same, and what it reads is the first to leave the cache: nobody reads it there again soon.
    __device__ void load_streaming(const T *from) {
#ifdef __CUDACC__
        if constexpr (sizeof words == sizeof(uint4)) {
            uint4 bits = __ldcs(reinterpret_cast<const uint4 *>(from));
            words[0] = bits.x, words[1] = bits.y, words[2] = bits.z, words[3] = bits.w;
            return;
        }
#endif
        load(from);
    }

    __device__ void unpack(float (&x)[W]) const {
#pragma unroll
        for (uint32_t j = 0; j < W; j++) {
            if constexpr (sizeof(T) == sizeof(uint32_t))
                x[j] = float_of(words[j]);
            else
                x[j] = float_of(j % 2 == 0 ? words[j / 2] << 16 : words[j / 2] & 0xffff0000);
        }
    }
};

/// visit(values, i) for each vector from[i .. i + W] of the n elements that is this thread's, of a block of THREADS.
///
/// BATCH loads are on their way at once: a block that has a row to itself waits for memory otherwise.
template <uint32_t THREADS, uint32_t BATCH, uint32_t W, class T, class Visit>
__device__ inline void for_each_vector(const T *from, uint32_t n, const Visit &visit) {
    constexpr uint32_t STEP = THREADS * W;
    Packed<T, W> batch[BATCH];
    for (uint32_t i = threadIdx.x * W; i < n; i += BATCH * STEP) {
#pragma unroll
        for (uint32_t b = 0; b < BATCH; b++)
            if (i + b * STEP < n) batch[b].load(from + i + b * STEP);
#pragma unroll
        for (uint32_t b = 0; b < BATCH; b++) {
            if (i + b * STEP >= n) continue;
            float values[W];
            batch[b].unpack(values);
            visit(values, i + b * STEP);
        }
    }
}

inline engine_status no_dtype(engine_dtype dtype) {
    return fail(ENGINE_BAD_ARGUMENT, "no kernel computes in dtype %d", static_cast<int>(dtype));
}

/// For master weights and gradients, which these kernels have in f32 alone.
inline engine_status only_f32(engine_dtype dtype) { return dtype == ENGINE_F32 ? ENGINE_OK : no_dtype(dtype); }

/// What an instance of a kernel is made for: the element type, and how many of them it moves at once.
template <class T, uint32_t W> struct Access {
    using Type = T;
    static constexpr uint32_t WIDTH = W;
};

/// Whether rows of so many bytes, and the pointers, are whole accesses of 16 bytes.
inline bool are_aligned(uint64_t row_bytes, std::initializer_list<const void *> pointers) {
    bool aligned = row_bytes % 16 == 0;
    for (const void *pointer : pointers) aligned = aligned && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
    return aligned;
}

/// Calls `launch(Access<float, W>())` with the widest W that rows of `row` elements and the pointers allow.
template <class Launch>
engine_status with_f32_access(uint64_t row, std::initializer_list<const void *> pointers, const Launch &launch) {
    return are_aligned(row * 4, pointers) ? launch(Access<float, 4>()) : launch(Access<float, 1>());
}

/// Calls `launch(Access<T, W>())` with the widest W that rows of `row` elements and the pointers allow.
template <class Launch>
engine_status with_access(engine_dtype dtype, uint64_t row, std::initializer_list<const void *> pointers,
                          const Launch &launch) {
    switch (dtype) {
    case ENGINE_F32: return with_f32_access(row, pointers, launch);
    case ENGINE_BF16: return are_aligned(row * 2, pointers) ? launch(Access<bf16, 8>()) : launch(Access<bf16, 1>());
    default: return no_dtype(dtype);
    }
}

} // namespace ENGINE_NAMESPACE
