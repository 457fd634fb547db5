// sample: the next token of each row: the largest logit, or a draw after temperature, top-k and top-p
//
//     w = exp((z - max) / temperature);  order: descending z, of equals the first;  keep the first top_k, then the fewest
//     whose w reach top_p of the kept;  token: where the running sum of w passes uniform * (sum of the kept)
//
// Shapes    tokens (R) u32     logits (R, V) T     uniforms (R) f32     best (R, ENGINE_ARGMAX_PARTS) u64
// Numerics  w is computed in f32 and summed as a whole number of 2^-40: sums are exact, in any order, for V up to 2^24
// Order     nothing is sorted: a row is cut where the count or the weight of all that is larger reaches a target, found
//           bit by bit; logits are compared as whole numbers of the same order (-0 as 0, NaN below all and never drawn)
// Cost      argmax: R * V * sizeof(T) bytes, memory bound; a block per part of a row, as many as keep a GPU busy. A draw with
//           top_k up to 1024 reads the row three times and goes on with the few largest in shared memory; others look at the
//           row again for every bit: 100 times or so
#include "reduce.cuh"
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 1024;
constexpr uint32_t BATCH = 2; // loads of a thread at once
constexpr uint32_t CANDIDATES = 4096; // that shared memory holds
constexpr uint32_t ARGMAX_BLOCKS = 256; // that are wanted
constexpr uint32_t LEAST_PART = 64; // of a row
constexpr float ONE = 0x1p40f; // of a weight

/// Whole numbers in the order of the logits, 0 for NaN; of bf16 16 bits tell all.
template <class T> struct Key {
    static constexpr uint32_t BITS = 8 * sizeof(T), SHIFT = 32 - BITS;

    __device__ static uint32_t of(float z) {
        if (isnan(z)) return 0;
        z += 0.0f; // -0 becomes 0
        uint32_t bits;
        memcpy(&bits, &z, sizeof bits);
        return (bits & 0x80000000u ? ~bits : bits | 0x80000000u) >> SHIFT;
    }
    __device__ static float value(uint32_t key) {
        uint32_t bits = key << SHIFT;
        bits = (bits & 0x80000000u ? bits ^ 0x80000000u : ~bits) >> SHIFT << SHIFT;
        float z;
        memcpy(&z, &bits, sizeof z);
        return z;
    }
};

/// A row of logits in global memory: `visit(key, index)` for each that is this thread's.
template <class T, uint32_t W> struct Row {
    const T *logits;
    uint32_t v;

    template <class Visit> __device__ void each(const Visit &visit) const {
        for_each_vector<THREADS, BATCH, W>(logits, v, [&](const float(&values)[W], uint32_t i) {
#pragma unroll
            for (uint32_t j = 0; j < W; j++) visit(Key<T>::of(values[j]), i + j);
        });
    }
};

struct Candidate {
    uint32_t key, index;
};

/// Those of a row that can still be drawn, in shared memory.
struct List {
    const Candidate *at;
    uint32_t count;

    template <class Visit> __device__ void each(const Visit &visit) const {
        for (uint32_t i = threadIdx.x; i < count; i += THREADS) visit(at[i].key, at[i].index);
    }
};

/// One key per thread.
struct Single {
    uint32_t key;

    template <class Visit> __device__ void each(const Visit &visit) const { visit(key, threadIdx.x); }
};

/// Sum of term(key, index) over the whole source, in every thread.
template <class Source, class Term> __device__ inline uint64_t sum_over(const Source &source, const Term &term) {
    uint64_t sum = 0;
    source.each([&](uint32_t key, uint32_t index) { sum += term(key, index); });
    return block_sum<THREADS>(sum);
}

/// The largest x of `bits` bits, at least `floor`, with enough(x); enough holds up to some x and for no larger one.
template <class Enough> __device__ inline uint32_t bisect(uint32_t bits, uint32_t floor, const Enough &enough) {
    uint32_t x = 0;
    for (uint32_t bit = 1u << (bits - 1); bit > 0; bit /= 2)
        if ((x | bit) <= floor || enough(x | bit)) x |= bit;
    return x;
}

/// What is kept of a row: all keys above `key`, which weigh `above`, and the first `ties` of those equal to it.
struct Kept {
    uint32_t key;
    uint64_t ties, above;
};

template <class T> struct Weigh {
    float max, temperature;

    __device__ uint64_t operator()(uint32_t key) const {
        if (key == 0) return 0;
        float z = Key<T>::value(key);
        return static_cast<uint64_t>(z == max ? ONE : expf((z - max) / temperature) * ONE);
    }
};

/// Draws from what is left of the source after top-k and top-p.
template <class T, class Source>
__device__ inline uint32_t draw(const Source &source, const Weigh<T> &weigh, const engine_sampling &sampling, float uniform,
                                uint32_t v) {
    constexpr uint32_t BITS = Key<T>::BITS;
    auto count_from = [&](uint32_t x) { return sum_over(source, [=](uint32_t key, uint32_t) { return key >= x; }); };
    auto weight_from = [&](uint32_t x) {
        return sum_over(source, [=](uint32_t key, uint32_t) { return key >= x ? weigh(key) : 0; });
    };
    Kept kept{0, 0, weight_from(1)};
    if (sampling.top_k > 0 && sampling.top_k < v) {
        kept.key = bisect(BITS, 0, [&](uint32_t x) { return count_from(x) >= sampling.top_k; });
        kept.ties = sampling.top_k - count_from(kept.key + 1);
        kept.above = weight_from(kept.key + 1);
    }
    uint64_t total = kept.above + kept.ties * weigh(kept.key);
    if (sampling.top_p < 1) {
        uint64_t target = static_cast<uint64_t>(ceil(double(sampling.top_p) * double(total)));
        target = target > 0 ? target : 1; // one token at least
        uint32_t key = bisect(BITS, kept.key, [&](uint32_t x) { return weight_from(x) >= target; });
        uint64_t larger = weight_from(key + 1), own = weigh(key);
        uint64_t ties = own > 0 && target > larger ? (target - larger + own - 1) / own : 0;
        kept = {key, key == kept.key && kept.ties < ties ? kept.ties : ties, larger};
        total = kept.above + kept.ties * own;
    }
    uint64_t point = static_cast<uint64_t>(double(uniform) * double(total));
    uint32_t key = bisect(BITS, kept.key, [&](uint32_t x) { return weight_from(x) > point; });
    uint64_t larger = weight_from(key + 1), own = weigh(key);
    uint64_t nth = own > 0 && point > larger ? (point - larger) / own : 0;
    // The index of the nth of equals: nth of them lie before it.
    return bisect(32, 0, [&](uint32_t x) {
        return x < v && sum_over(source, [=](uint32_t other, uint32_t index) { return other == key && index < x; }) <= nth;
    });
}

/// Puts every element whose key is at least `bound` into the list; their number, which may be too large for it.
template <class Source> __device__ inline uint32_t gather(Candidate *list, const Source &source, uint32_t bound) {
    SHARED(uint32_t, before, THREADS / WARP);
    uint32_t own = 0, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    source.each([&](uint32_t key, uint32_t) { own += key >= bound; });
    uint32_t up_to = own;
    for (uint32_t distance = 1; distance < WARP; distance *= 2) {
        uint32_t other = __shfl_up_sync(~0u, up_to, distance);
        if (lane >= distance) up_to += other;
    }
    if (lane == WARP - 1) before[warp] = up_to;
    __syncthreads();
    uint32_t at = up_to - own, all = 0;
    for (uint32_t w = 0; w < THREADS / WARP; w++) {
        if (w < warp) at += before[w];
        all += before[w];
    }
    if (all <= CANDIDATES)
        source.each([&](uint32_t key, uint32_t index) {
            if (key >= bound) list[at++] = {key, index};
        });
    __syncthreads();
    return all;
}

/// The thread's largest logit, the first of equals: its key above the inverted index.
template <class Source> __device__ inline uint64_t largest(const Source &source) {
    uint64_t best = 0;
    source.each([&](uint32_t key, uint32_t index) {
        uint64_t packed = uint64_t(key) << 32 | ~index;
        best = packed > best ? packed : best;
    });
    return best;
}

__device__ inline uint64_t block_max(uint64_t value) {
    SHARED(uint64_t, partial, THREADS / WARP);
    auto larger = [](uint64_t a, uint64_t b) { return a > b ? a : b; };
    value = warp_reduce(value, larger);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = value;
    __syncthreads();
    return warp_reduce(partial[threadIdx.x % (THREADS / WARP)], larger);
}

/// best (R, parts): the largest of each `part` logits of a row, the last part being what is left. Block (row, part).
template <class T, uint32_t W>
__global__ void __launch_bounds__(THREADS, 1) argmax_kernel(uint64_t *best, const T *logits, uint32_t v, uint32_t part) {
    wait_for_earlier_kernels();
    uint32_t first = blockIdx.y * part, count = v - first < part ? v - first : part;
    uint64_t own = block_max(largest(Row<T, W>{logits + size_t(blockIdx.x) * v + first, count}));
    // The key stays, and of the inverted index `first` is taken away.
    if (threadIdx.x == 0) best[size_t(blockIdx.x) * gridDim.y + blockIdx.y] = own - first;
}

/// tokens (R) from best (R, parts), a warp per row.
__global__ void __launch_bounds__(WARP) argmax_parts_kernel(uint32_t *tokens, const uint64_t *best, uint32_t parts) {
    wait_for_earlier_kernels();
    uint64_t own = threadIdx.x < parts ? best[size_t(blockIdx.x) * parts + threadIdx.x] : 0;
    own = warp_reduce(own, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
    if (threadIdx.x == 0) tokens[blockIdx.x] = ~static_cast<uint32_t>(own);
}

template <class T, uint32_t W>
__global__ void __launch_bounds__(THREADS, 1)
    sample_kernel(uint32_t *tokens, const T *logits, const float *uniforms, engine_sampling sampling, uint32_t v) {
    wait_for_earlier_kernels();
    SHARED(Candidate, list, CANDIDATES);
    Row<T, W> row{logits + size_t(blockIdx.x) * v, v};
    uint64_t own = largest(row);
    uint32_t key = static_cast<uint32_t>(own >> 32), max = static_cast<uint32_t>(block_max(own) >> 32);
    Weigh<T> weigh{Key<T>::value(max), sampling.temperature};
    uint32_t found = CANDIDATES + 1, token;
    if (sampling.top_k > 0 && sampling.top_k <= THREADS) {
        // At least top_k threads, so at least top_k logits, reach this bound; few others do.
        uint32_t bound = bisect(Key<T>::BITS, 0, [&](uint32_t x) {
            return sum_over(Single{key}, [=](uint32_t largest, uint32_t) { return largest >= x; }) >= sampling.top_k;
        });
        found = gather(list, row, bound);
    }
    if (found <= CANDIDATES)
        token = draw(List{list, found}, weigh, sampling, uniforms[blockIdx.x], v);
    else
        token = draw(row, weigh, sampling, uniforms[blockIdx.x], v);
    if (threadIdx.x == 0) tokens[blockIdx.x] = max == 0 ? 0 : token;
}

template <class T, uint32_t W>
engine_status launch_argmax(uint32_t *tokens, uint64_t *best, const T *logits, uint32_t r, uint32_t v, engine_stream stream) {
    static_assert(ENGINE_ARGMAX_PARTS <= WARP && LEAST_PART % W == 0);
    uint32_t wanted = ceil_div(ARGMAX_BLOCKS, r), most = wanted < ENGINE_ARGMAX_PARTS ? wanted : ENGINE_ARGMAX_PARTS;
    uint32_t part = ceil_div(ceil_div(v, most), LEAST_PART) * LEAST_PART, parts = ceil_div(v, part);
    engine_status status = LAUNCH((argmax_kernel<T, W>), dim3(r, parts), THREADS, 0, stream, best, logits, v, part);
    if (status != ENGINE_OK) return status;
    return LAUNCH(argmax_parts_kernel, r, WARP, 0, stream, tokens, best, parts);
}

} // namespace

engine_status sample(uint32_t *tokens, uint64_t *best, const void *logits, const float *uniforms,
                     const engine_sampling *sampling, uint32_t r, uint32_t v, engine_dtype dtype, engine_stream stream) {
    if (r == 0 || v == 0) return ENGINE_OK;
    if (sampling && !(sampling->temperature > 0))
        return fail(ENGINE_BAD_ARGUMENT, "a temperature of %g", sampling->temperature);
    return with_access(dtype, v, {logits}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        auto *rows = static_cast<const T *>(logits);
        if (!sampling) return launch_argmax<T, W>(tokens, best, rows, r, v, stream);
        return LAUNCH((sample_kernel<T, W>), r, THREADS, 0, stream, tokens, rows, uniforms, *sampling, v);
    });
}

} // namespace ENGINE_NAMESPACE
