// cross_entropy: loss of a chunk of logits, turned in place into their gradient
//
//     lse = log sum_V exp z;  loss = sum_t w_t (lse - (1 - s) z[id_t] - s mean_V z);  entropy = lse - sum_V p z,  p = exp(z - lse)
//     s: the part of a target's probability that is spread over the vocabulary (label smoothing)
//
// Shapes    logits (R, V) T     starts (R + 1), ids (M), weights (M) f32: the targets, by row     results: one struct
//           target_logits (M), row_sums (R, 4) f32: scratch
// Backward  dz = scale * (w_row (p - s / V) - sum_t w_t (1 - s) onehot(id_t)),  w_row = sum of the row's w
// Numerics  f32 inside, one rounding at the store; rows are added up in f64
// Order     one online pass per thread, folded by warps and then over them; rows likewise: no atomics, bit-equal reruns
// Cost      1 read and 1 write of R * V * sizeof(T) bytes: memory bound, with two exp per logit. A block per row, and one to a
//           multiprocessor: it keeps the first 144 KB of its row in registers (less where rows are not aligned), the next ones in as much
//           shared memory as there is, and reads the rest a second time, from the L2 cache: of 262,144 logits in bf16 that is 144 KB on
//           an H100, for all blocks that run at once 19 MB of a cache of 50
#include <algorithm>

#include "reduce.cuh"
#include "tensor_core.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 512;
constexpr uint32_t HELD = 18; // vectors of its row that a thread keeps in registers: with three more ptxas spills
constexpr uint32_t BATCH = 4; // loads of a thread at once, of what is not kept
constexpr uint32_t SUMS = 256; // threads that add up the rows
constexpr uint32_t OWN_SHARED = 1024; // bytes that a block has beside what it keeps of its row, at most

/// What one pass over a row's logits knows: with m the largest so far, the sums of e = exp(z - m), of (z - m) * e and of z.
struct Online {
    float max, sum, moment, total;
    uint32_t argmax; // the first of equals

    /// Takes the measures by a new largest logit.
    __device__ void rescale(float larger) {
        float shift = max - larger, weight = expf(shift);
        moment = weight > 0 ? (moment + sum * shift) * weight : 0; // not 0 * -inf
        sum *= weight;
        max = larger;
    }

    /// Adds z[first ..]; vectors come in the order of their indices.
    template <uint32_t W> __device__ void add(const float (&z)[W], uint32_t first) {
        float largest = max;
        for (uint32_t j = 0; j < W; j++)
            if (z[j] > largest) largest = z[j], argmax = first + j;
        if (largest > max) rescale(largest);
        float base = max == -INFINITY ? 0 : max; // not -inf - -inf
        for (uint32_t j = 0; j < W; j++) {
            float distance = z[j] - base, e = expf(distance);
            sum += e;
            total += z[j];
            if (e > 0) moment += distance * e;
        }
    }
};

/// Of no logits.
constexpr Online NOTHING{-INFINITY, 0, 0, 0, UINT32_MAX};

/// Both parts' knowledge, the same whichever comes first.
__device__ inline Online combine(Online a, Online b) {
    if (b.max > a.max || (b.max == a.max && b.argmax < a.argmax)) {
        Online other = a;
        a = b, b = other;
    }
    a.total += b.total;
    if (b.max == -INFINITY) return a; // it has seen nothing that weighs
    b.rescale(a.max);
    return {a.max, a.sum + b.sum, a.moment + b.moment, a.total, a.argmax};
}

/// What a row's gradient needs.
struct Softmax {
    float max, sum;
    float weight; // of the row's targets
};

/// The first warp's part: folds the warps' knowledge, writes the row's sums, returns what the others wait for.
__device__ inline Softmax row_loss(float *out, const Online &own, const float *target_logits, const uint32_t *ids,
                                   const float *weights, float smoothing, uint32_t first, uint32_t end, uint32_t v) {
    Online row = warp_reduce(own, combine);
    float log_sum = logf(row.sum);
    float spread = smoothing > 0 ? smoothing * (row.total / static_cast<float>(v) - row.max) : 0; // not 0 * -inf
    float loss = 0, weight = 0, correct = 0;
    for (uint32_t t = first + threadIdx.x; t < end; t += WARP) {
        loss += weights[t] * (log_sum - (1 - smoothing) * (target_logits[t] - row.max) - spread);
        correct += ids[t] == row.argmax ? weights[t] : 0;
        weight += weights[t];
    }
    loss = warp_sum(loss), correct = warp_sum(correct), weight = warp_sum(weight);
    if (threadIdx.x == 0)
        out[0] = loss, out[1] = weight * (log_sum - row.moment / row.sum), out[2] = correct, out[3] = weight;
    return {row.max, row.sum, weight};
}

/// Bytes of its row that a block keeps for the second pass: the first ones in registers, the next ones in shared memory. One argument
/// of the kernel, which the bill of a step (benches/shared/bill.rs) knows by the bytes in shared memory.
struct alignas(8) Kept {
    uint32_t register_bytes, shared_bytes;
};

/// The first n logits of a row in the registers of a block: n is whole steps of it, at most HELD. So a guard is the same for all threads,
/// and what is between guards is in order: where ptxas may move vectors past each other, it spills.
template <class T, uint32_t W> struct Held {
    static constexpr uint32_t STEP = THREADS * W;
    Packed<T, W> vectors[HELD];

    /// All loads are on their way at once.
    __device__ void load(const T *z, uint32_t n) {
        const T *own = z + threadIdx.x * W;
#pragma unroll
        for (uint32_t k = 0; k < HELD; k++)
            if (k * STEP < n) vectors[k].load_streaming(own + k * STEP);
    }

    template <class Visit> __device__ void for_each(uint32_t n, const Visit &visit) const {
#pragma unroll
        for (uint32_t k = 0; k < HELD; k++) {
            if (k * STEP >= n) continue;
            float values[W];
            vectors[k].unpack(values);
            visit(values, threadIdx.x * W + k * STEP);
        }
    }
};

/// Starts to copy n logits to shared memory, each vector by the thread that for_each_vector gives it to, which then needs no barrier.
template <uint32_t W, class T> __device__ inline void keep(T *shared, const T *z, uint32_t n) {
    for (uint32_t i = threadIdx.x * W; i < n; i += THREADS * W) {
        if constexpr (sizeof(T) * W == 16)
            copy_async_16_streaming(shared + i, z + i);
        else
            shared[i] = z[i];
    }
    copy_commit();
}

template <class T, uint32_t W>
__global__ void __launch_bounds__(THREADS, 1) // one block at once: it has all registers and shared memory
    cross_entropy_kernel(T *logits, float *target_logits, float *row_sums, const uint32_t *starts, const uint32_t *ids,
                         const float *weights, const double *scale, float smoothing, uint32_t v, Kept kept) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED_REST(T, shared, OWN_SHARED);
    T *z = logits + size_t(blockIdx.x) * v;
    uint32_t held_end = kept.register_bytes / sizeof(T), shared_end = held_end + kept.shared_bytes / sizeof(T);
    uint32_t first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    // What is kept comes first, all of it at once, and leaves the cache first. The rest comes last, and the second pass begins with it:
    // it is all that the cache has to hold until then. A thread sees its vectors in the order of their indices.
    Held<T, W> held;
    held.load(z, held_end);
    keep<W>(shared, z + held_end, shared_end - held_end);
    Online row = NOTHING;
    held.for_each(held_end, [&](const float(&values)[W], uint32_t i) { row.add(values, i); });
    for (uint32_t t = first + threadIdx.x; t < end; t += THREADS) target_logits[t] = to_float(z[ids[t]]);
    copy_wait<0>();
    for_each_vector<THREADS, 1, W>(shared, shared_end - held_end,
                                   [&](const float(&values)[W], uint32_t i) { row.add(values, held_end + i); });
    for_each_vector<THREADS, BATCH, W>(z + shared_end, v - shared_end,
                                       [&](const float(&values)[W], uint32_t i) { row.add(values, shared_end + i); });
    SHARED(Online, partial, THREADS / WARP);
    SHARED(Softmax, shared_softmax, 1);
    row = warp_reduce(row, combine);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = row;
    __syncthreads(); // the target logits are there, too
    if (threadIdx.x < WARP) {
        float *out = row_sums + size_t(blockIdx.x) * 4;
        row = threadIdx.x < THREADS / WARP ? partial[threadIdx.x] : NOTHING;
        Softmax softmax = row_loss(out, row, target_logits, ids, weights, smoothing, first, end, v);
        if (threadIdx.x == 0) shared_softmax[0] = softmax;
    }
    if (!scale) return;
    __syncthreads();
    Softmax softmax = shared_softmax[0];
    // exp(z - max) / sum, not exp(z - lse): the rounding of lse would come back as a relative error of every gradient.
    float unit = static_cast<float>(*scale), factor = softmax.weight * unit / softmax.sum;
    float spread = softmax.weight * unit * smoothing / static_cast<float>(v), pull = unit * (1 - smoothing);
    auto store_slopes = [&](const float(&values)[W], uint32_t i) {
        float slopes[W];
        for (uint32_t j = 0; j < W; j++) slopes[j] = expf(values[j] - softmax.max) * factor - spread;
        store_streaming(z + i, slopes);
    };
    for_each_vector<THREADS, BATCH, W>(z + shared_end, v - shared_end, [&](const float(&values)[W], uint32_t i) {
        store_slopes(values, shared_end + i);
    });
    for_each_vector<THREADS, 1, W>(shared, shared_end - held_end,
                                   [&](const float(&values)[W], uint32_t i) { store_slopes(values, held_end + i); });
    held.for_each(held_end, store_slopes);
    __syncthreads(); // a target's gradient replaces what another thread wrote
    for (uint32_t t = first + threadIdx.x; t < end; t += THREADS)
        z[ids[t]] = from_float<T>(expf(target_logits[t] - softmax.max) * factor - spread - weights[t] * pull);
}

/// All of a row, or as much as there is room for, in whole steps of the block's.
template <class T, uint32_t W> Kept kept_of(uint32_t v) {
    constexpr uint32_t STEP = THREADS * W;
    size_t most = most_shared_memory(), room = most > OWN_SHARED ? (most - OWN_SHARED) / sizeof(T) : 0;
    uint32_t in_registers = std::min(v / STEP, HELD) * STEP, others = v - in_registers;
    size_t in_shared = others <= room ? others : room - room % STEP;
    return {static_cast<uint32_t>(in_registers * sizeof(T)), static_cast<uint32_t>(in_shared * sizeof(T))};
}

/// The first four numbers of results += row_sums (R, 4) over the rows: every 64th row by a thread, and then the threads in order.
__global__ void __launch_bounds__(SUMS) cross_entropy_sums_kernel(engine_step_results *results, const float *row_sums, uint32_t r) {
    wait_for_earlier_kernels();
    SHARED(double, partial, SUMS);
    uint32_t own = threadIdx.x % 4;
    double sum = 0;
    for (uint32_t row = threadIdx.x / 4; row < r; row += SUMS / 4) sum += row_sums[size_t(row) * 4 + own];
    partial[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= 4) return;
    for (uint32_t i = threadIdx.x + 4; i < SUMS; i += 4) sum += partial[i];
    double *sums[4] = {&results->loss, &results->entropy, &results->correct, &results->scored};
    *sums[own] += sum;
}

} // namespace

engine_status cross_entropy(void *logits, engine_step_results *results, void *target_logits, void *row_sums,
                            const uint32_t *starts, const uint32_t *ids, const float *weights, const double *scale,
                            float smoothing, uint32_t r, uint32_t v, engine_dtype dtype, engine_stream stream) {
    if (r == 0 || v == 0) return ENGINE_OK;
    auto *by_row = static_cast<float *>(row_sums);
    engine_status status = with_access(dtype, v, {logits}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        Kept kept = scale ? kept_of<T, W>(v) : Kept{};
        return LAUNCH((cross_entropy_kernel<T, W>), r, THREADS, kept.shared_bytes, stream, static_cast<T *>(logits),
                      static_cast<float *>(target_logits), by_row, starts, ids, weights, scale, smoothing, v, kept);
    });
    if (status != ENGINE_OK) return status;
    return LAUNCH(cross_entropy_sums_kernel, 1, SUMS, 0, stream, results, by_row, r);
}

} // namespace ENGINE_NAMESPACE
