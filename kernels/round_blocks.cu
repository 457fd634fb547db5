// round_blocks: master weights as a file of blocks would give them back
//
//     q8_0   d = largest |x| / 127;  y = f16(d) * round(x / d)
//     q4_0   d = (the first number of the largest magnitude) / -8;  y = f16(d) * (min(15, trunc(x / d + 8.5)) - 8)
//     norm   y = (x + 1) - 1
//
// Shapes    to (n) T     from (n) f32     starts, blocks (G + 1)     formats (G)
// Numerics  as ggml's reference: every product and sum rounded in f32, the integer found with d as it was before it was rounded to
//           f16; y is rounded once to T
// Order     a warp has a block of 32 numbers; the largest of them does not depend on an order
// Cost      n * (4 + sizeof(T)) bytes: memory bound. A warp finds its group by bisection
#include "reduce.cuh"
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 256;
static_assert(WARP == ENGINE_FORMAT_BLOCK);

/// Rounded to the nearest number of f16, ties to even.
__device__ inline float through_f16(float x) {
    float size = fabsf(x);
    if (size < 0x1p-14f) {
        size = (size + 0.5f) - 0.5f; // the distance of numbers from 0.5 on is that of f16's subnormals, 2^-24
    } else if (size >= 65520) {
        size = INFINITY;
    } else {
        uint32_t bits = bits_of(size);
        size = float_of((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu);
    }
    return copysignf(size, x);
}

/// a * b + c, rounded twice: nvcc would fuse it.
__device__ inline float product_and_sum(float a, float b, float c) {
#ifdef __CUDA_ARCH__
    return __fadd_rn(__fmul_rn(a, b), c);
#else
    return a * b + c;
#endif
}

/// 1 / d, and 0 for a block of zeros.
__device__ inline float inverse_of(float d) { return d == 0 ? 0 : 1 / d; }

/// The whole part of x, between low and high; 0 for NaN, which 0 times the inverse of a d near 0 is.
__device__ inline float whole(float x, float low, float high) {
    return isnan(x) ? 0 : static_cast<float>(static_cast<int>(fminf(fmaxf(x, low), high)));
}

/// The largest magnitude of a block.
__device__ inline float largest_of(float x) {
    return warp_reduce(fabsf(x), [](float a, float b) { return fmaxf(a, b); });
}

__device__ inline float round_q8_0(float x) {
    float d = largest_of(x) / 127;
    return through_f16(d) * whole(roundf(x * inverse_of(d)), -128, 127);
}

__device__ inline float round_q4_0(float x) {
    float largest = largest_of(x);
    uint32_t lane = threadIdx.x % WARP;
    uint32_t first = warp_reduce(fabsf(x) == largest ? lane : WARP, [](uint32_t a, uint32_t b) { return a < b ? a : b; });
    float d = (largest == 0 ? 0 : __shfl_sync(~0u, x, first)) / -8; // zeros of either sign count as +0
    return through_f16(d) * (whole(product_and_sum(x, inverse_of(d), 8.5f), 0, 15) - 8);
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    round_blocks_kernel(T *to, const float *from, const uint64_t *starts, const uint64_t *blocks, const uint32_t *formats,
                        uint32_t groups, uint64_t count) {
    wait_for_earlier_kernels();
    uint64_t block = uint64_t(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
    if (block >= count) return;
    uint32_t group = interval_of(blocks, groups, block);
    uint64_t i = starts[group] + (block - blocks[group]) * WARP + threadIdx.x % WARP;
    bool exists = i < starts[group + 1];
    float x = exists ? from[i] : 0, y;
    switch (formats[group]) {
    case ENGINE_FORMAT_Q8_0: y = round_q8_0(x); break;
    case ENGINE_FORMAT_Q4_0: y = round_q4_0(x); break;
    default: y = (x + 1) - 1;
    }
    if (exists) to[i] = from_float<T>(y);
}

template <class T>
engine_status launch(void *to, const void *from, const uint64_t *starts, const uint64_t *blocks, const uint32_t *formats,
                     uint32_t groups, uint64_t count, engine_stream stream) {
    return LAUNCH((round_blocks_kernel<T>), ceil_div(count, THREADS / WARP), THREADS, 0, stream, static_cast<T *>(to),
                  static_cast<const float *>(from), starts, blocks, formats, groups, count);
}

} // namespace

engine_status round_blocks(void *to, const void *from, const uint64_t *starts, const uint64_t *blocks, const uint32_t *formats,
                           uint32_t groups, uint64_t count, engine_dtype dtype, engine_stream stream) {
    if (count == 0) return ENGINE_OK;
    switch (dtype) {
    case ENGINE_F32: return launch<float>(to, from, starts, blocks, formats, groups, count, stream);
    case ENGINE_BF16: return launch<bf16>(to, from, starts, blocks, formats, groups, count, stream);
    default: return no_dtype(dtype);
    }
}

} // namespace ENGINE_NAMESPACE
