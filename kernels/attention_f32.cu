// attention of f32: the formulas of attention.cu and attention_backward.cu in plain kernels, a warp per row
//
// Shapes    q, o, dq, do (N, H, Dh)     k, v (S, K, Dh)     lse, delta (N, H)     dk, dv (S, H / heads_at_once, Dh)
// Numerics  f32 throughout; the tensor cores would round to TF32
// Order     a warp owns a row and takes what it sees in order, in dk and dv head by head: every sum has one owner, bit-equal reruns.
//           The splits of a decoded row are added up in order, by the last warp to finish a token (arrive.cuh)
// Cost      4 * Dh FLOP per visible (row, key, head), 14 * Dh backward; bound by reads of rows from the L1 cache, which
//           the warps of a block share: they own neighbours, which see much the same
//
// No shared memory and no barriers. A lane knows one row of a tile of 32 (keys; for dk and dv queries): which of them
// are seen is a vote, and what is not seen is not read.
#include "attention.cuh"

namespace ENGINE_NAMESPACE::attention {
namespace {

constexpr uint32_t WARPS = 4; // of a block
constexpr uint32_t BATCH = 4; // rows on their way from memory at once
constexpr uint32_t BATCH_MASK = (1 << BATCH) - 1;

/// A row of up to 256 elements, 8 in each lane: W neighbours of every 32 W. What is beyond head_dim is zeros.
template <uint32_t W> struct Row {
    static constexpr uint32_t PARTS = 256 / WARP / W;
    float at[PARTS][W];

    __device__ static uint32_t column(uint32_t part) { return (part * WARP + threadIdx.x % WARP) * W; }
    /// Zeros where `from` is null.
    __device__ void read(const float *from, uint32_t dim) {
#pragma unroll
        for (uint32_t i = 0; i < PARTS; i++) {
            for (uint32_t j = 0; j < W; j++) at[i][j] = 0;
            if (from && column(i) < dim) load(at[i], from + column(i));
        }
    }
    __device__ void write(float *to, uint32_t dim) const {
#pragma unroll
        for (uint32_t i = 0; i < PARTS; i++)
            if (column(i) < dim) store(to + column(i), at[i]);
    }
    /// This lane's share.
    __device__ float dot(const Row &other) const {
        float sum = 0;
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) sum += at[i / W][i % W] * other.at[i / W][i % W];
        return sum;
    }
    __device__ void add(float weight, const Row &other) {
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) at[i / W][i % W] += weight * other.at[i / W][i % W];
    }
    __device__ void scale(float factor) {
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) at[i / W][i % W] *= factor;
    }
};

/// Rows of memory that lie `stride` apart; zeros for those whose bit is 0: they are not read.
template <uint32_t W>
__device__ inline void read_seen(Row<W> (&rows)[BATCH], const float *from, size_t stride, uint32_t seen, uint32_t dim) {
#pragma unroll
    for (uint32_t b = 0; b < BATCH; b++) rows[b].read(seen >> b & 1 ? from + b * stride : nullptr, dim);
}

/// Sums over the warp of N numbers; lane l gets that of x[l / (WARP / N)]. Lanes halve the numbers between them as long
/// as there are two: 9 shuffles for 8 sums, one by one they would be 40. Each equals warp_sum's to the bit.
template <uint32_t N> __device__ inline float warp_sums(float (&x)[N]) {
#pragma unroll
    for (uint32_t count = N / 2, distance = WARP / 2; distance > 0; count /= 2, distance /= 2) {
        bool upper = threadIdx.x & distance;
#pragma unroll
        for (uint32_t i = 0; i < count; i++) {
            float keep = upper ? x[count + i] : x[i], give = upper ? x[i] : x[count + i];
            x[i] = keep + __shfl_xor_sync(~0u, give, distance);
        }
        if (count == 0) x[0] += __shfl_xor_sync(~0u, x[0], distance);
    }
    return x[0];
}

/// A row of q that a warp owns; `index` is its place in (N, H). Its neighbours are the heads that share its keys, then
/// the next token.
struct Query {
    uint32_t token, kv_head, slot, position;
    size_t index;

    /// Whether this warp has one.
    __device__ bool find(const engine_attention &mask) {
        uint32_t group = mask.heads.query / mask.heads.kv, pair = blockIdx.x * WARPS + threadIdx.x / WARP;
        token = pair / group, kv_head = blockIdx.y;
        if (token >= mask.n) return false;
        slot = mask.slots[token], position = mask.positions[token];
        index = size_t(token) * mask.heads.query + kv_head * group + pair % group;
        return true;
    }
    /// A bit for each of the 32 keys from `base` on.
    __device__ uint32_t sees(const engine_attention &mask, uint32_t base) const {
        uint32_t key = base + threadIdx.x % WARP;
        return __ballot_sync(~0u, key < mask.s && key <= slot && slot < mask.end[key] &&
                                      position - mask.key_positions[key] < mask.window);
    }
    /// Where the head's k or v of a slot begins.
    __device__ const float *key(const float *from, const engine_attention &mask, uint32_t slot) const {
        return from + (size_t(slot) * mask.heads.kv + kv_head) * mask.heads.dim;
    }
};

/// o and lse; or, where `split` has an o, that one from the gridDim.z shares of the keys.
template <uint32_t W>
__global__ void __launch_bounds__(WARPS *WARP, 5) // without a wish ptxas aims at fewer registers on sm_80, and spills
    attention_f32_kernel(Output<float> out, SplitOutput<float> split, Inputs<float> in, uint32_t tile_tokens) {
    wait_for_earlier_kernels();
    const engine_attention &mask = in.mask;
    uint32_t lane = threadIdx.x % WARP, dim = mask.heads.dim;
    float scale = static_cast<float>(mask.scale);
    size_t stride = size_t(mask.heads.kv) * dim;
    Query own;
    if (!own.find(mask)) return;
    Row<W> q, total = {}, rows[BATCH];
    q.read(in.q + own.index * dim, dim);
    float max = -INFINITY, sum = 0; // of the powers: the lane's share
    uint32_t tile = own.token / tile_tokens, start = mask.key_starts[tile];
    uint32_t steps = (mask.key_starts[tile + 1] - start) * STEPS;
    uint32_t begin = uint64_t(steps) * blockIdx.z / gridDim.z, end = uint64_t(steps) * (blockIdx.z + 1) / gridDim.z;
    for (uint32_t at = begin; at < end; at++) {
        uint32_t base = mask.key_tiles[start + at / STEPS] * ENGINE_ATTENTION_TILE + at % STEPS * TILE;
        uint32_t seen = own.sees(mask, base);
        if (!seen) continue;
        float score = -INFINITY; // of the lane's key
        for (uint32_t b = 0; b < TILE; b += BATCH) {
            if (!(seen >> b & BATCH_MASK)) continue;
            read_seen(rows, own.key(in.k, mask, base + b), stride, seen >> b, dim);
            float scores[BATCH];
#pragma unroll
            for (uint32_t i = 0; i < BATCH; i++) scores[i] = q.dot(rows[i]);
            float own_score = __shfl_sync(~0u, warp_sums(scores), lane % BATCH * (WARP / BATCH));
            if (lane / BATCH == b / BATCH && seen >> lane & 1) score = own_score * scale;
        }
        float top = larger(max, warp_reduce(score, larger)), shrink = expf(max - top), power = expf(score - top);
        max = top, sum = sum * shrink + power;
        total.scale(shrink);
        for (uint32_t b = 0; b < TILE; b += BATCH) {
            if (!(seen >> b & BATCH_MASK)) continue;
            read_seen(rows, own.key(in.v, mask, base + b), stride, seen >> b, dim);
#pragma unroll
            for (uint32_t i = 0; i < BATCH; i++) total.add(__shfl_sync(~0u, power, b + i), rows[i]);
        }
    }
    sum = warp_sum(sum);
    if (!split.o) {
        if (lane == 0) out.lse[own.index] = max + logf(sum);
        total.scale(1 / sum);
        total.write(out.o + own.index * dim, dim);
        return;
    }
    size_t to = own.index * gridDim.z + blockIdx.z;
    if (lane == 0) split.stats[2 * to] = max, split.stats[2 * to + 1] = sum;
    total.write(split.parts + to * dim, dim);
    uint32_t heads = mask.heads.query;
    if (!last_warp(split.arrived + own.token, heads * gridDim.z)) return;
    for (uint32_t head = 0; head < heads; head++) combine_row(split, size_t(own.token) * heads + head, dim);
}

/// p and ds of BATCH pairs of a query and a key, each in a lane of the lower half of the warp.
struct Slope {
    static constexpr uint32_t LANES = WARP / (2 * BATCH);
    float p, ds;

    /// The pair of this lane; a lane of pair i.
    __device__ static uint32_t pair() { return threadIdx.x % (WARP / 2) / LANES; }
    __device__ static uint32_t lane(uint32_t i) { return i * LANES; }

    /// From the lanes' shares of the scores, then of do v^T. Bit i of `seen` is about pair i; lse and delta are those
    /// of the lane's pair.
    __device__ Slope(float (&sums)[2 * BATCH], uint32_t seen, float scale, float lse, float delta) {
        float score = warp_sums(sums), dp = __shfl_xor_sync(~0u, score, WARP / 2);
        p = seen >> pair() & 1 ? expf(score * scale - lse) : 0;
        ds = p * (dp - delta);
    }
};

/// dq, and delta for attention_f32_keys_kernel.
template <uint32_t W>
__global__ void __launch_bounds__(WARPS *WARP)
    attention_f32_queries_kernel(Gradients<float> to, Inputs<float> in, const float *o) {
    wait_for_earlier_kernels();
    const engine_attention &mask = in.mask;
    uint32_t dim = mask.heads.dim;
    float scale = static_cast<float>(mask.scale);
    size_t stride = size_t(mask.heads.kv) * dim;
    Query own;
    if (!own.find(mask)) return;
    Row<W> q, d_o, dq = {}, k[BATCH], v[BATCH];
    q.read(o + own.index * dim, dim);
    d_o.read(to.d_o + own.index * dim, dim);
    float delta = warp_sum(d_o.dot(q)), lse = to.lse[own.index];
    if (threadIdx.x % WARP == 0) to.delta[own.index] = delta;
    q.read(in.q + own.index * dim, dim);
    uint32_t tile = own.token / ENGINE_ATTENTION_TILE;
    for (uint32_t at = mask.key_starts[tile] * STEPS; at < mask.key_starts[tile + 1] * STEPS; at++) {
        uint32_t base = mask.key_tiles[at / STEPS] * ENGINE_ATTENTION_TILE + at % STEPS * TILE;
        uint32_t seen = own.sees(mask, base);
        for (uint32_t b = 0; b < TILE; b += BATCH) {
            if (!(seen >> b & BATCH_MASK)) continue;
            read_seen(k, own.key(in.k, mask, base + b), stride, seen >> b, dim);
            read_seen(v, own.key(in.v, mask, base + b), stride, seen >> b, dim);
            float sums[2 * BATCH]; // scores, then do v^T
#pragma unroll
            for (uint32_t i = 0; i < BATCH; i++) sums[i] = q.dot(k[i]), sums[BATCH + i] = d_o.dot(v[i]);
            Slope slope(sums, seen >> b, scale, lse, delta);
#pragma unroll
            for (uint32_t i = 0; i < BATCH; i++) dq.add(__shfl_sync(~0u, slope.ds, Slope::lane(i)), k[i]);
        }
    }
    dq.scale(scale);
    dq.write(to.dq + own.index * dim, dim);
}

/// dk and dv of a key from the queries of some heads, the blockIdx.y-th of them.
template <uint32_t W>
__global__ void __launch_bounds__(WARPS *WARP) attention_f32_keys_kernel(Gradients<float> to, Inputs<float> in) {
    wait_for_earlier_kernels();
    const engine_attention &mask = in.mask;
    uint32_t lane = threadIdx.x % WARP, key = blockIdx.x * WARPS + threadIdx.x / WARP;
    uint32_t first_head = blockIdx.y * mask.heads_at_once, end_head = first_head + mask.heads_at_once;
    if (key >= mask.s) return;
    uint32_t dim = mask.heads.dim, end = mask.end[key], position = mask.key_positions[key];
    float scale = static_cast<float>(mask.scale);
    size_t own = size_t(key) * mask.heads.kv + first_head / (mask.heads.query / mask.heads.kv);
    Row<W> k, v, dk_sum = {}, dv_sum = {}, q[BATCH], d_o[BATCH];
    k.read(in.k + own * dim, dim);
    v.read(in.v + own * dim, dim);
    uint32_t tile = key / ENGINE_ATTENTION_TILE;
    for (uint32_t head = first_head; head < end_head; head++) {
        Row<W> dk = {}, dv = {};
        for (uint32_t at = mask.query_starts[tile] * STEPS; at < mask.query_starts[tile + 1] * STEPS; at++) {
            uint32_t base = mask.query_tiles[at / STEPS] * ENGINE_ATTENTION_TILE + at % STEPS * TILE, row = base + lane;
            bool sees = row < mask.n && key <= mask.slots[row] && mask.slots[row] < end &&
                        mask.positions[row] - position < mask.window;
            uint32_t seen = __ballot_sync(~0u, sees);
            float lse = sees ? to.lse[size_t(row) * mask.heads.query + head] : 0;
            float delta = sees ? to.delta[size_t(row) * mask.heads.query + head] : 0;
            for (uint32_t b = 0; b < TILE; b += BATCH) {
                if (!(seen >> b & BATCH_MASK)) continue;
                size_t stride = size_t(mask.heads.query) * dim, first = (base + b) * stride + head * dim;
                read_seen(q, in.q + first, stride, seen >> b, dim);
                read_seen(d_o, to.d_o + first, stride, seen >> b, dim);
                float sums[2 * BATCH]; // scores, then v do^T
#pragma unroll
                for (uint32_t i = 0; i < BATCH; i++) sums[i] = k.dot(q[i]), sums[BATCH + i] = v.dot(d_o[i]);
                uint32_t from = b + Slope::pair();
                Slope slope(sums, seen >> b, scale, __shfl_sync(~0u, lse, from), __shfl_sync(~0u, delta, from));
#pragma unroll
                for (uint32_t i = 0; i < BATCH; i++) {
                    dv.add(__shfl_sync(~0u, slope.p, Slope::lane(i)), d_o[i]);
                    dk.add(__shfl_sync(~0u, slope.ds, Slope::lane(i)), q[i]);
                }
            }
        }
        dk_sum.add(1, dk), dv_sum.add(1, dv);
    }
    dk_sum.scale(scale);
    size_t sum = (size_t(key) * gridDim.y + blockIdx.y) * dim;
    dk_sum.write((to.dk ? to.dk : to.dk_parts) + sum, dim);
    dv_sum.write((to.dv ? to.dv : to.dv_parts) + sum, dim);
}

/// Blocks that own all rows of q, in x and y.
dim3 query_blocks(const engine_attention &mask, uint32_t splits) {
    return dim3(ceil_div(uint64_t(mask.n) * (mask.heads.query / mask.heads.kv), WARPS), mask.heads.kv, splits);
}

} // namespace

engine_status launch_attention(Plain, const Output<float> &out, const Inputs<float> &in, engine_stream stream) {
    auto kernel = in.wide ? attention_f32_kernel<4> : attention_f32_kernel<1>;
    return LAUNCH(kernel, query_blocks(in.mask, 1), WARPS * WARP, 0, stream, out, SplitOutput<float>{}, in,
                  ENGINE_ATTENTION_TILE);
}

engine_status launch_attention(Plain, const SplitOutput<float> &out, const Inputs<float> &in, engine_stream stream) {
    auto kernel = in.wide ? attention_f32_kernel<4> : attention_f32_kernel<1>;
    return LAUNCH(kernel, query_blocks(in.mask, out.splits), WARPS * WARP, 0, stream, Output<float>{}, out, in, 1);
}

engine_status launch_gradients(Plain, const Gradients<float> &to, const Inputs<float> &in, const float *o,
                               engine_stream stream) {
    auto queries_kernel = in.wide ? attention_f32_queries_kernel<4> : attention_f32_queries_kernel<1>;
    auto keys_kernel = in.wide ? attention_f32_keys_kernel<4> : attention_f32_keys_kernel<1>;
    engine_status status = LAUNCH(queries_kernel, query_blocks(in.mask, 1), WARPS * WARP, 0, stream, to, in, o);
    if (status != ENGINE_OK) return status;
    dim3 grid(ceil_div(in.mask.s, WARPS), in.mask.heads.query / in.mask.heads_at_once);
    return LAUNCH(keys_kernel, grid, WARPS * WARP, 0, stream, to, in);
}

} // namespace ENGINE_NAMESPACE::attention
