// What the emulator must catch: small kernels, each with a switch that plants one fault.
//
// Only tests link this file. Every kernel computes the same thing right when the fault is off.
#include "../reduce.cuh"
#include "../tensor_core.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 64;

/// out (64) = in reversed, through shared memory. The fault leaves the barrier out.
__global__ void reverse_kernel(float *out, const float *in, bool no_barrier) {
    wait_for_earlier_kernels();
    SHARED(float, tile, THREADS);
    tile[threadIdx.x] = in[threadIdx.x];
    if (!no_barrier) __syncthreads();
    out[threadIdx.x] = tile[THREADS - 1 - threadIdx.x];
}

/// out (64) = sum of in, in every element. The fault lets all threads add to one number at once.
__global__ void sum_kernel(float *out, const float *in, bool race) {
    wait_for_earlier_kernels();
    float sum;
    if (race) {
        SHARED(float, total, 1);
        if (threadIdx.x == 0) total[0] = 0;
        __syncthreads();
        total[0] += in[threadIdx.x];
        __syncthreads();
        sum = total[0];
    } else {
        sum = block_sum<THREADS>(in[threadIdx.x]);
    }
    out[threadIdx.x] = sum;
}

/// out (64) = a number per block of 32 threads. The fault has both blocks write all of it.
__global__ void blocks_kernel(float *out, bool race) {
    wait_for_earlier_kernels();
    out[race ? threadIdx.x : blockIdx.x * WARP + threadIdx.x] = 1;
}

/// out (64) = 1: two blocks write a half of 0.5 each, by their second warp, and the last of them adds 0.5 to all. in[20] is a 0,
/// with which they count. Faults: no barrier before the count; no fence before it; none behind it.
__global__ void last_kernel(float *out, uint32_t *counter, uint32_t fault) {
    wait_for_earlier_kernels();
    SHARED(uint32_t, last, 1);
    if (threadIdx.x >= WARP) out[blockIdx.x * WARP + threadIdx.x % WARP] = 0.5f;
    if (fault != 1) __syncthreads();
    if (threadIdx.x == 0) {
        if (fault != 2) __threadfence();
        last[0] = atomicInc(counter, 1);
        if (fault != 3) __threadfence();
    }
    __syncthreads();
    if (last[0]) out[threadIdx.x] += 0.5f;
}

/// out (64) = in, by an asynchronous copy. Faults: reads before it has waited; never waits; has more memory than it
/// says, or than any block has.
__global__ void copy_kernel(float *out, const float *in, bool early, bool no_wait) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED(float, tile, sizeof(float) * THREADS);
    if (threadIdx.x < THREADS / 4) copy_async_16(tile + 4 * threadIdx.x, in + 4 * threadIdx.x);
    copy_commit();
    if (!early && !no_wait) copy_wait<0>();
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x];
    if (!early) return;
    __syncthreads();
    copy_wait<0>();
}

/// out (64) = in. Faults: before it waits for earlier kernels it reads, writes, counts, begins a copy; one thread never waits.
__global__ void early_kernel(float *out, const float *in, uint32_t *counter, uint32_t fault) {
    DYNAMIC_SHARED(float, tile, sizeof(float) * THREADS);
    float x = fault == 1 ? in[threadIdx.x] : 0;
    if (fault == 2) out[threadIdx.x] = x;
    if (fault == 3 && threadIdx.x == 0) atomicInc(counter, 0);
    if (fault == 4 && threadIdx.x < THREADS / 4) copy_async_16(tile + 4 * threadIdx.x, in + 4 * threadIdx.x);
    if (fault != 5 || threadIdx.x != 7) wait_for_earlier_kernels();
    copy_commit();
    copy_wait<0>();
    out[threadIdx.x] = fault == 1 ? x : in[threadIdx.x];
}

/// out (64) = in. Faults: one element too far, in global or in shared memory, by a write or a read.
__global__ void bounds_kernel(float *out, const float *in, uint32_t written, uint32_t read, uint32_t shared) {
    wait_for_earlier_kernels();
    SHARED(float, tile, THREADS);
    tile[threadIdx.x + shared] = in[threadIdx.x + read];
    out[threadIdx.x + written] = tile[threadIdx.x + shared];
}

/// out (64) = 1. Faults: half of the threads skip a barrier; they wait at another one; they skip a shuffle.
__global__ void divergent_kernel(float *out, uint32_t fault) {
    wait_for_earlier_kernels();
    out[threadIdx.x] = 1;
    if (fault != 1 || threadIdx.x < WARP) __syncthreads();
    if (fault == 2 && threadIdx.x < WARP) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    if (fault != 3 || threadIdx.x % 2 == 0) out[threadIdx.x] = warp_sum(1.0f) / WARP;
}

/// out (16, 8) = a (16, 16) b (16, 8) on the tensor cores. The fault loads b without transposing it.
__global__ void product_kernel(float *out, const bf16 *a, const bf16 *b, bool wrong_layout) {
    wait_for_earlier_kernels();
    using Row = Vector<bf16, 8>;
    SHARED(Row, rows, 48); // a: 16 rows of two; b: 16 rows of one
    uint32_t lane = threadIdx.x;
    rows[lane] = reinterpret_cast<const Row *>(a)[lane];
    if (lane < 16) rows[32 + lane] = reinterpret_cast<const Row *>(b)[lane];
    __syncthreads();
    uint32_t left[4], right[4];
    // Tiles of a: rows 0-7, rows 8-15, and the same rows of the right half.
    ldmatrix(left, rows[lane % 16 * 2 + lane / 16].at);
    const bf16 *row = rows[32 + lane % 16].at;
    wrong_layout ? ldmatrix(right, row) : ldmatrix_transposed(right, row);
    float c[4] = {0, 0, 0, 0};
    mma_bf16(c, left, {right[0], right[1]});
    for (uint32_t i = 0; i < 4; i++) out[(lane / 4 + i / 2 * 8) * 8 + 2 * (lane % 4) + i % 2] = c[i];
}

} // namespace
} // namespace ENGINE_NAMESPACE

using namespace ENGINE_NAMESPACE;

/// Runs the test kernel of this name on out (64; 128 for `product`) and in (64), or a (16, 16) then b (16, 8) in bf16
/// for `product`. `fault` 0 is the right version.
extern "C" engine_status engine_emulator_test(const char *name, uint32_t fault, float *out, const void *in) {
    auto *x = static_cast<const float *>(in);
    auto *a = static_cast<const bf16 *>(in);
    auto is = [&](const char *other) { return strcmp(name, other) == 0; };
    if (is("reverse")) return LAUNCH(reverse_kernel, 1, THREADS, 0, nullptr, out, x, fault == 1);
    if (is("sum")) return LAUNCH(sum_kernel, 1, THREADS, 0, nullptr, out, x, fault == 1);
    if (is("blocks")) return LAUNCH(blocks_kernel, 2, WARP, 0, nullptr, out, fault == 1);
    auto *counter = reinterpret_cast<uint32_t *>(const_cast<float *>(x)) + 20;
    if (is("last")) return LAUNCH(last_kernel, 2, THREADS, 0, nullptr, out, counter, fault);
    if (is("copy")) {
        uint32_t bytes = fault == 4 ? 100 * 1024 : 4 * THREADS + (fault == 3 ? 16 : 0);
        return LAUNCH(copy_kernel, 1, THREADS, bytes, nullptr, out, x, fault == 1, fault == 2);
    }
    if (is("early")) return LAUNCH(early_kernel, 1, THREADS, 4 * THREADS, nullptr, out, x, counter, fault);
    if (is("bounds"))
        return LAUNCH(bounds_kernel, 1, THREADS, 0, nullptr, out, x, fault == 1, fault == 2, fault == 3);
    if (is("divergent")) return LAUNCH(divergent_kernel, 1, THREADS, 0, nullptr, out, fault);
    if (is("product")) return LAUNCH(product_kernel, 1, WARP, 0, nullptr, out, a, a + 256, fault == 1);
    return fail(ENGINE_BAD_ARGUMENT, "no test kernel `%s`", name);
}
