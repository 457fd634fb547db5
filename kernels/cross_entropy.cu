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
// Cost      2 reads and 1 write of R * V * sizeof(T) bytes: memory bound, with two exp per logit. A block per row, and one to a
//           multiprocessor: it keeps as much of its row as there is shared memory, and reads the rest a second time
#include "reduce.cuh"
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 1024;
constexpr uint32_t BATCH = 2; // loads of a thread at once
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

template <class T, uint32_t W>
__global__ void __launch_bounds__(THREADS, 1) // one block at once: for two of them ptxas spills
    cross_entropy_kernel(T *logits, float *target_logits, float *row_sums, const uint32_t *starts, const uint32_t *ids,
                         const float *weights, const double *scale, float smoothing, uint32_t v, uint32_t kept) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED_REST(T, keep, OWN_SHARED); // z[0 .. kept]; a thread reads what it wrote
    T *z = logits + size_t(blockIdx.x) * v;
    uint32_t first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    for (uint32_t t = first + threadIdx.x; t < end; t += THREADS) target_logits[t] = to_float(z[ids[t]]);
    Online row{-INFINITY, 0, 0, 0, UINT32_MAX};
    for_each_vector<THREADS, BATCH, W>(z, v, [&](const float(&values)[W], uint32_t i) {
        row.add(values, i);
        if (i < kept) store(keep + i, values);
    });
    static_assert(THREADS == WARP * WARP);
    SHARED(Online, partial, WARP);
    SHARED(Softmax, shared_softmax, 1);
    row = warp_reduce(row, combine);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = row;
    __syncthreads(); // the target logits are there, too
    if (threadIdx.x < WARP) {
        float *out = row_sums + size_t(blockIdx.x) * 4;
        Softmax softmax = row_loss(out, partial[threadIdx.x], target_logits, ids, weights, smoothing, first, end, v);
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
        store(z + i, slopes);
    };
    for_each_vector<THREADS, BATCH, W>(keep, kept, store_slopes);
    for_each_vector<THREADS, BATCH, W>(z + kept, v - kept,
                                       [&](const float(&values)[W], uint32_t i) { store_slopes(values, kept + i); });
    __syncthreads(); // a target's gradient replaces what another thread wrote
    for (uint32_t t = first + threadIdx.x; t < end; t += THREADS)
        z[ids[t]] = from_float<T>(expf(target_logits[t] - softmax.max) * factor - spread - weights[t] * pull);
}

/// Logits that a block keeps of its row for a second pass: all, or as many whole steps of the block's as fit.
template <class T, uint32_t W> uint32_t kept_logits(uint32_t v) {
    size_t most = most_shared_memory(), room = most > OWN_SHARED ? (most - OWN_SHARED) / sizeof(T) : 0;
    return v <= room ? v : static_cast<uint32_t>(room - room % (THREADS * W));
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
        uint32_t kept = scale ? kept_logits<T, W>(v) : 0;
        return LAUNCH((cross_entropy_kernel<T, W>), r, THREADS, kept * sizeof(T), stream, static_cast<T *>(logits),
                      static_cast<float *>(target_logits), by_row, starts, ids, weights, scale, smoothing, v, kept);
    });
    if (status != ENGINE_OK) return status;
    return LAUNCH(cross_entropy_sums_kernel, 1, SUMS, 0, stream, results, by_row, r);
}

} // namespace ENGINE_NAMESPACE
