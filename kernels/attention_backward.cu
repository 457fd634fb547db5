// attention, backward: p = exp(s - lse);  dv = p^T do;  ds = p * (do v^T - delta);  dq = scale ds k;  dk = scale ds^T q
//
// Shapes    dq, do, o, q (N, H, Dh) T     dk, dv, k, v (S, K, Dh) T, S = N     lse, delta (N, H) f32
//           dk, dv in parts: (S, H / heads_at_once, Dh) f32     scratch: delta = rowsum(do * o)
// Saved     q, k, v, o, lse
// Numerics  f32 inside, one rounding at the store; p and ds are rounded to bf16 for the tensor cores
// f32       attention_f32.cu: what follows here is bf16
// Order     every sum has one owner. dq: as the forward. dk, dv: a block walks over the queries of one head after the other, in
//           order, of all heads of a group or of some; parts are added in order by who reads them (rope.cu). No atomics,
//           bit-equal reruns
// Cost      14 * Dh FLOP per (row, key, head) of the tiles, of which 4 are scores that both parts compute
//
// Of some hundred rows neither part fills the chip: blocks of both run in one launch, behind one that computes delta. Of
// thousands dq is a launch of its own, whose blocks compute delta of their own rows: nothing reads do and o for that
// alone; dk and dv, which need it of all rows, are the next. Delta has the same bits either way, and so has the rest.
//
// Two blocks fit on a multiprocessor. In the part of dk and dv a warp computes p^T and ds^T of its half of the queries,
// hands them over in shared memory, and then adds up its half of the columns for all queries: dk and dv fit into registers.
#include "attention.cuh"

namespace ENGINE_NAMESPACE {
namespace {

using namespace attention;

constexpr uint32_t BANDS = 2;
constexpr uint32_t PAIRS = BANDS * BAND; // rows of a block: of queries in one part, keys in the other
constexpr uint32_t THREADS = BANDS * 2 * WARP;
static_assert(PAIRS == TILE && TILE == ENGINE_ATTENTION_KEYS);

/// p^T and ds^T on their way from the warp that computes them to the two that need them, in fragments.
struct Exchange {
    Weights at[2][BANDS][2][WARP];
};

template <class S> constexpr size_t TILE_ELEMENTS = TILE *S::PITCH;
template <class S>
constexpr size_t SHARED_BYTES = 4 * TILE_ELEMENTS<S> * sizeof(bf16) + sizeof(Exchange);

/// From so many blocks on dq is a launch of its own: about four waves of two blocks on each of 132 multiprocessors. At its
/// end the chip runs empty before dk and dv begin, which costs about half the time of a wave, whatever the number of waves;
/// a pass over do and o costs more the more blocks there are. An estimate: not measured on a chip.
constexpr uint32_t BLOCKS_OF_OWN_LAUNCH = 1024;

// ---- delta

constexpr uint32_t WARPS = THREADS / WARP;

/// Sums of some rows of do * o, by a warp. What the rows have in a column is on its way from memory at once.
template <uint32_t W, uint32_t ROWS>
__device__ inline void row_deltas(float (&sums)[ROWS], const bf16 *d_o, const bf16 *o, const size_t (&rows)[ROWS],
                                  uint32_t dim) {
    float x[ROWS][W], y[ROWS][W];
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) sums[r] = 0;
    for (uint32_t i = threadIdx.x % WARP * W; i < dim; i += WARP * W) {
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) load(x[r], d_o + rows[r] * dim + i), load(y[r], o + rows[r] * dim + i);
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint32_t j = 0; j < W; j++) sums[r] += x[r][j] * y[r][j];
    }
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) sums[r] = warp_sum(sums[r]);
}

/// delta (N * H) = rowsum(do * o), a warp per row.
template <uint32_t W>
__global__ void __launch_bounds__(THREADS)
    attention_delta_kernel(float *delta, const bf16 *d_o, const bf16 *o, uint32_t rows, uint32_t dim) {
    wait_for_earlier_kernels();
    uint32_t row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= rows) return;
    float sum[1];
    row_deltas<W>(sum, d_o, o, {row}, dim);
    if (threadIdx.x % WARP == 0) delta[row] = sum[0];
}

/// delta of the block's pairs, 8 to a warp. Beyond the last pair are copies of it, never stored.
template <uint32_t W>
__device__ inline void pair_deltas(float *delta, const bf16 *d_o, const bf16 *o, const Pairs &pairs, uint32_t dim) {
    constexpr uint32_t ROWS = PAIRS / WARPS;
    uint32_t first = threadIdx.x / WARP * ROWS;
    size_t rows[ROWS];
    float sums[ROWS];
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) rows[r] = pairs.index(first + r < pairs.count ? first + r : pairs.count - 1);
    row_deltas<W>(sums, d_o, o, rows, dim);
    if (threadIdx.x % WARP != 0) return;
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++)
        if (first + r < pairs.count) delta[rows[r]] = sums[r];
}

// ---- dq

/// dq of the block's pairs, and delta if there is an `o`; else it has been computed. k of the next tile arrives while
/// do v^T is computed, v while ds k is.
template <class S>
__device__ inline void query_gradients(bf16 *shared, const Gradients<bf16> &to, const Inputs<bf16> &in,
                                       const bf16 *o, const Pairs &pairs, const KeyWalk &walk, const Place &place) {
    bf16 *q = shared, *d_o = q + TILE_ELEMENTS<S>, *k = d_o + TILE_ELEMENTS<S>, *v = k + TILE_ELEMENTS<S>;
    uint32_t dim = in.mask.heads.dim, kv_heads = in.mask.heads.kv;
    auto load_pairs = [&](bf16 *into, const bf16 *from) {
        load_rows<S, TILE, THREADS>(into, from, dim, in.wide, [&](uint32_t r) {
            return r < pairs.count ? from + pairs.index(r) * dim : nullptr;
        });
    };
    auto load_keys = [&](bf16 *into, const bf16 *from, const Keys &keys) {
        load_rows<S, TILE, THREADS>(into, from, dim, in.wide, [&](uint32_t r) {
            const bf16 *row = from + (size_t(keys.base + r) * kv_heads + pairs.kv_head) * dim;
            return keys.held >> r & 1 ? row : nullptr;
        });
        copy_commit();
    };
    Rows rows(in.mask, pairs, place);
    Keys keys = walk.fetch(0);
    walk.settle(keys); // a row sees a key at least
    load_pairs(q, in.q);
    load_pairs(d_o, to.d_o);
    load_keys(v, in.v, keys);
    load_keys(k, in.k, keys);
    if (o) {
        if (in.wide)
            pair_deltas<8>(to.delta, to.d_o, o, pairs, dim);
        else
            pair_deltas<1>(to.delta, to.d_o, o, pairs, dim);
        __syncthreads(); // delta is here
    }
    float scale = static_cast<float>(in.mask.scale) * LOG2_E, lse[2], delta[2];
#pragma unroll
    for (uint32_t r = 0; r < 2; r++)
        lse[r] = to.lse[pairs.index(rows.pair[r])] * LOG2_E, delta[r] = to.delta[pairs.index(rows.pair[r])];
    float dq[S::DIM / 8][4] = {};
    uint32_t band = place.band * BAND * S::PITCH, half = place.half * BAND * S::PITCH;
    while (keys.at < walk.end) {
        Keys next = walk.fetch(keys.at + 1);
        bool seen = place.own(keys.seen);
        float ds[2][4], s[2][4];
        copy_wait<1>();
        __syncthreads(); // v is here
        if (seen) multiply<S>(ds, d_o + band, v + half, place.lane);
        walk.settle(next);
        copy_wait<0>();
        __syncthreads(); // k is here, and nobody needs v
        if (next.at < walk.end) load_keys(v, in.v, next);
        if (seen) {
            multiply<S>(s, q + band, k + half, place.lane);
#pragma unroll
            for (uint32_t i = 0; i < 8; i++) s[i / 4][i % 4] *= scale;
            hide(s, keys, rows, place, in.mask.window);
#pragma unroll
            for (uint32_t i = 0; i < 8; i++) {
                uint32_t r = i % 4 / 2;
                ds[i / 4][i % 4] = exp2f(s[i / 4][i % 4] - lse[r]) * (ds[i / 4][i % 4] - delta[r]);
            }
            accumulate<S, S::DIM>(dq, Weights::of(ds), k + half, place.lane);
        }
        __syncthreads(); // nobody needs k
        if (next.at < walk.end) load_keys(k, in.k, next);
        keys = next;
    }
#pragma unroll
    for (uint32_t i = 0; i < S::DIM / 2; i++) dq[i / 4][i % 4] *= static_cast<float>(in.mask.scale);
    float *sum = reinterpret_cast<float *>(shared);
    add_halves<S>(sum, dq, place);
    store_rows<S, THREADS, bf16>(sum, pairs.count, dim, in.wide,
                                 [&](uint32_t r) { return to.dq + pairs.index(r) * dim; });
}

// ---- dk and dv

/// What the block's keys are, and the most and the least that they are seen by. A lane has one key.
struct KeyExtent {
    uint32_t base, end, position;
    uint32_t least_end, most_end, least_position, most_position;

    __device__ KeyExtent(const engine_attention &mask, uint32_t base, uint32_t lane) : base(base) {
        bool exists = base + lane < mask.s;
        end = exists ? mask.end[base + lane] : 0; // nobody sees a key beyond the last
        position = mask.key_positions[exists ? base + lane : mask.s - 1];
        auto least = [](uint32_t a, uint32_t b) { return a < b ? a : b; };
        auto most = [](uint32_t a, uint32_t b) { return a > b ? a : b; };
        least_end = warp_reduce(end, least), most_end = warp_reduce(end, most);
        least_position = warp_reduce(position, least), most_position = warp_reduce(position, most);
    }
};

/// A tile of rows of queries of one head: what this lane knows about its own row, and votes, a bit per row.
struct Queries {
    uint32_t at, head, base, slot, position;
    float lse, delta;
    uint32_t seen;  // rows that may see some key of the block
    uint32_t clear; // rows that see every key
};

/// The tiles of queries in a list of tiles, for one head after the other, those that see no key of the block left out.
struct QueryWalk {
    const engine_attention &mask;
    const Gradients<bf16> &to;
    const uint32_t *tiles;
    uint32_t steps, end, lane, head; // tiles of a head, of all; the first head
    KeyExtent extent;

    __device__ Queries fetch(uint32_t at) const {
        Queries queries = {};
        queries.at = at;
        if (at >= end) return queries;
        uint32_t step = at % steps;
        queries.head = head + at / steps;
        queries.base = tiles[step / STEPS] * ENGINE_ATTENTION_TILE + step % STEPS * TILE;
        uint32_t row = queries.base + lane;
        queries.slot = UINT32_MAX; // beyond the last row: it sees nothing
        if (row >= mask.n) return queries;
        queries.slot = mask.slots[row], queries.position = mask.positions[row];
        size_t index = size_t(row) * mask.heads.query + queries.head;
        queries.lse = to.lse[index] * LOG2_E, queries.delta = to.delta[index];
        return queries;
    }

    __device__ void vote(Queries &queries) const {
        uint32_t slot = queries.slot, position = queries.position;
        bool seen = queries.at < end && extent.base <= slot && slot < extent.most_end &&
                    (position <= extent.most_position || position - extent.most_position < mask.window);
        bool clear = extent.base + TILE - 1 <= slot && slot < extent.least_end &&
                     position - extent.least_position < mask.window;
        queries.seen = __ballot_sync(~0u, seen);
        queries.clear = __ballot_sync(~0u, clear);
    }

    /// Goes on from what was fetched to the first tile that sees something.
    __device__ void settle(Queries &queries) const {
        for (;;) {
            vote(queries);
            if (queries.seen || queries.at >= end) return;
            queries = fetch(queries.at + 1);
        }
    }
};

/// From scores s^T and dp^T = v do^T of 16 keys and 16 queries: s becomes p, dp becomes ds.
__device__ inline void score_gradients(float (&s)[2][4], float (&dp)[2][4], const Queries &queries,
                                       const KeyExtent &keys, const engine_attention &mask, const Place &place) {
    bool clear = place.own(queries.clear) == HALF_MASK;
    float scale = static_cast<float>(mask.scale) * LOG2_E;
    uint32_t end[2], position[2];
#pragma unroll
    for (uint32_t r = 0; r < 2; r++) {
        uint32_t own = place.band * BAND + place.row + 8 * r;
        end[r] = __shfl_sync(~0u, keys.end, own), position[r] = __shfl_sync(~0u, keys.position, own);
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t at = BAND * place.half + i / 2 * 8 + place.column + i % 2;
        float lse = __shfl_sync(~0u, queries.lse, at), delta = __shfl_sync(~0u, queries.delta, at);
        uint32_t slot = 0, row_position = 0;
        if (!clear)
            slot = __shfl_sync(~0u, queries.slot, at), row_position = __shfl_sync(~0u, queries.position, at);
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            uint32_t key = keys.base + place.band * BAND + place.row + 8 * r;
            bool sees = clear || (key <= slot && slot < end[r] && row_position - position[r] < mask.window);
            float &x = s[i / 2][2 * r + i % 2], &y = dp[i / 2][2 * r + i % 2];
            x = sees ? exp2f(x * scale - lse) : 0;
            y = x * (y - delta);
        }
    }
}

/// Writes a warp's 16 rows and DIM / 2 columns of dk or dv, times `scale`, as `head` of the `heads` that a key has in `to`.
template <class S, class T>
__device__ inline void store_keys(T *to, const float (&c)[S::DIM / 16][4], uint32_t base, const engine_attention &mask,
                                  uint32_t head, uint32_t heads, float scale, const Place &place) {
    uint32_t dim = mask.heads.dim;
#pragma unroll
    for (uint32_t i = 0; i < S::DIM / 8; i++) {
        uint32_t key = base + place.band * BAND + place.row + i % 2 * 8;
        uint32_t column = place.half * (S::DIM / 2) + i / 2 * 8 + place.column;
        if (key >= mask.s) continue;
        T *at = to + (size_t(key) * heads + head) * dim + column;
        const float pair[2] = {scale * c[i / 2][i % 2 * 2], scale * c[i / 2][i % 2 * 2 + 1]};
        if (dim % 2 == 0 && column < dim) {
            store(at, pair);
        } else {
            for (uint32_t j = 0; j < 2 && column + j < dim; j++) at[j] = from_float<T>(pair[j]);
        }
    }
}

/// dk and dv of 32 keys from the queries of some heads. do of the next tile arrives while ds^T q is computed, q while the
/// next v do^T is.
template <class S>
__device__ inline void key_gradients(bf16 *shared, const Gradients<bf16> &to, const Inputs<bf16> &in,
                                     const QueryWalk &walk, const Place &place) {
    bf16 *k = shared, *v = k + TILE_ELEMENTS<S>, *q = v + TILE_ELEMENTS<S>, *d_o = q + TILE_ELEMENTS<S>;
    auto &exchange = *reinterpret_cast<Exchange *>(d_o + TILE_ELEMENTS<S>);
    const engine_attention &mask = in.mask;
    uint32_t dim = mask.heads.dim, kv_head = walk.head / (mask.heads.query / mask.heads.kv), base = walk.extent.base;
    auto load_keys = [&](bf16 *into, const bf16 *from) {
        load_rows<S, TILE, THREADS>(into, from, dim, in.wide, [&](uint32_t r) {
            return base + r < mask.s ? from + (size_t(base + r) * mask.heads.kv + kv_head) * dim : nullptr;
        });
    };
    auto load_queries = [&](bf16 *into, const bf16 *from, const Queries &queries) {
        load_rows<S, TILE, THREADS>(into, from, dim, in.wide, [&](uint32_t r) {
            const bf16 *row = from + (size_t(queries.base + r) * mask.heads.query + queries.head) * dim;
            return queries.base + r < mask.n ? row : nullptr;
        });
        copy_commit();
    };
    float dk[S::DIM / 16][4] = {}, dv[S::DIM / 16][4] = {};
    Queries queries = walk.fetch(0);
    walk.settle(queries);
    if (queries.at < walk.end) {
        load_keys(k, in.k);
        load_keys(v, in.v);
        load_queries(d_o, to.d_o, queries);
        load_queries(q, in.q, queries);
    }
    uint32_t band = place.band * BAND * S::PITCH, columns = place.half * (S::DIM / 2);
    // dx += the weights of both halves of the queries, times this warp's columns of x.
    auto add = [&](float (&dx)[S::DIM / 16][4], uint32_t matrix, const bf16 *x) {
#pragma unroll
        for (uint32_t half = 0; half < 2; half++)
            if (queries.seen >> BAND * half & HALF_MASK)
                accumulate<S, S::DIM / 2>(dx, exchange.at[matrix][place.band][half][place.lane],
                                          x + half * BAND * S::PITCH + columns, place.lane);
    };
    while (queries.at < walk.end) {
        Queries next = walk.fetch(queries.at + 1);
        bool seen = place.own(queries.seen);
        float s[2][4], dp[2][4];
        copy_wait<1>();
        __syncthreads(); // do is here
        if (seen) multiply<S>(dp, v + band, d_o + place.half * BAND * S::PITCH, place.lane);
        walk.settle(next);
        copy_wait<0>();
        __syncthreads(); // q is here
        if (seen) {
            multiply<S>(s, k + band, q + place.half * BAND * S::PITCH, place.lane);
            score_gradients(s, dp, queries, walk.extent, mask, place);
            exchange.at[0][place.band][place.half][place.lane] = Weights::of(s);
            exchange.at[1][place.band][place.half][place.lane] = Weights::of(dp);
        }
        __syncthreads(); // the weights are here
        add(dv, 0, d_o);
        __syncthreads(); // nobody needs do
        if (next.at < walk.end) load_queries(d_o, to.d_o, next);
        add(dk, 1, q);
        __syncthreads(); // nobody needs q or the weights
        if (next.at < walk.end) load_queries(q, in.q, next);
        queries = next;
    }
    uint32_t sum = walk.head / mask.heads_at_once, sums = mask.heads.query / mask.heads_at_once;
    float scale = static_cast<float>(mask.scale);
    if (to.dk) {
        store_keys<S>(to.dk, dk, base, mask, sum, sums, scale, place);
        store_keys<S>(to.dv, dv, base, mask, sum, sums, 1, place);
    } else {
        store_keys<S>(to.dk_parts, dk, base, mask, sum, sums, scale, place);
        store_keys<S>(to.dv_parts, dv, base, mask, sum, sums, 1, place);
    }
}

// ---- kernels

/// Block `block` of those of (tile of queries, pairs in it and kv head), the last tile first.
template <class S>
__device__ inline void query_block(bf16 *shared, const Gradients<bf16> &to, const Inputs<bf16> &in, const bf16 *o,
                                   uint32_t block) {
    const engine_attention &mask = in.mask;
    Place place;
    uint32_t kv_heads = mask.heads.kv, tiles = (mask.n - 1) / ENGINE_ATTENTION_TILE + 1;
    uint32_t tile = tiles - 1 - block % tiles;
    Pairs pairs(mask, tile, ENGINE_ATTENTION_TILE, block / tiles / kv_heads, PAIRS, block / tiles % kv_heads);
    if (pairs.count == 0) return;
    uint32_t first = mask.key_starts[tile], steps = (mask.key_starts[tile + 1] - first) * STEPS;
    KeyWalk walk{mask, mask.key_tiles + first, steps, place.lane, Extent(mask, pairs, place.lane)};
    query_gradients<S>(shared, to, in, o, pairs, walk, place);
}

/// Block `block` of those of (32 keys, some heads).
template <class S>
__device__ inline void key_block(bf16 *shared, const Gradients<bf16> &to, const Inputs<bf16> &in, uint32_t block) {
    const engine_attention &mask = in.mask;
    Place place;
    uint32_t heads = mask.heads_at_once, per_key = mask.heads.query / heads;
    uint32_t head = block % per_key * heads, tile = block / per_key;
    uint32_t first = mask.query_starts[tile / STEPS];
    uint32_t steps = (mask.query_starts[tile / STEPS + 1] - first) * STEPS;
    QueryWalk walk{mask,  to,         mask.query_tiles + first, steps,
                   steps * heads, place.lane, head, KeyExtent(mask, tile * TILE, place.lane)};
    key_gradients<S>(shared, to, in, walk, place);
}

/// Of few rows: first the blocks of keys, then those of queries.
template <class S>
__global__ void __launch_bounds__(THREADS)
    attention_backward_kernel(Gradients<bf16> to, Inputs<bf16> in, uint32_t key_blocks) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED(bf16, shared, SHARED_BYTES<S>);
    if (blockIdx.x < key_blocks)
        key_block<S>(shared, to, in, blockIdx.x);
    else
        query_block<S>(shared, to, in, nullptr, blockIdx.x - key_blocks);
}

/// Of many rows: dq, and delta for attention_keys_kernel.
template <class S>
__global__ void __launch_bounds__(THREADS)
    attention_queries_kernel(Gradients<bf16> to, Inputs<bf16> in, const bf16 *o) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED(bf16, shared, SHARED_BYTES<S>);
    query_block<S>(shared, to, in, o, blockIdx.x);
}

template <class S>
__global__ void __launch_bounds__(THREADS) attention_keys_kernel(Gradients<bf16> to, Inputs<bf16> in) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED(bf16, shared, SHARED_BYTES<S>);
    key_block<S>(shared, to, in, blockIdx.x);
}

template <class S>
engine_status launch_gradients(S, const Gradients<bf16> &to, const Inputs<bf16> &in, const bf16 *o,
                               engine_stream stream) {
    const engine_attention &mask = in.mask;
    uint32_t rows = mask.n * mask.heads.query, group = mask.heads.query / mask.heads.kv;
    uint32_t key_blocks = ceil_div(mask.s, TILE) * (mask.heads.query / mask.heads_at_once);
    uint32_t query_blocks = ceil_div(mask.n, ENGINE_ATTENTION_TILE) * ceil_div(ENGINE_ATTENTION_TILE * group, PAIRS);
    query_blocks *= mask.heads.kv;
    if (query_blocks >= BLOCKS_OF_OWN_LAUNCH) {
        Gradients<bf16> of_queries = to, of_keys = to; // each gets what it touches
        of_queries.dk = of_queries.dv = nullptr, of_queries.dk_parts = of_queries.dv_parts = nullptr;
        of_keys.dq = nullptr;
        engine_status status = LAUNCH((attention_queries_kernel<S>), query_blocks, THREADS, SHARED_BYTES<S>, stream,
                                      of_queries, in, o);
        if (status != ENGINE_OK) return status;
        return LAUNCH((attention_keys_kernel<S>), key_blocks, THREADS, SHARED_BYTES<S>, stream, of_keys, in);
    }
    auto delta_kernel = in.wide ? attention_delta_kernel<8> : attention_delta_kernel<1>;
    engine_status status =
        LAUNCH(delta_kernel, ceil_div(rows, WARPS), THREADS, 0, stream, to.delta, to.d_o, o, rows, mask.heads.dim);
    if (status != ENGINE_OK) return status;
    uint32_t blocks = key_blocks + query_blocks;
    return LAUNCH((attention_backward_kernel<S>), blocks, THREADS, SHARED_BYTES<S>, stream, to, in, key_blocks);
}

} // namespace

engine_status attention_backward(void *dq, void *dk, void *dv, void *scratch, const void *lse, const void *d_o,
                                 const void *o, const void *q, const void *k, const void *v,
                                 const engine_attention *mask, engine_stream stream) {
    if (mask->n == 0) return ENGINE_OK;
    if (mask->n != mask->s)
        return fail(ENGINE_BAD_ARGUMENT, "%u rows of %u slots: a backward is over all rows", mask->n, mask->s);
    return with_shape(*mask, {dq, dk, dv, scratch, d_o, o, q, k, v}, [&](auto shape, bool wide) {
        using T = typename decltype(shape)::Type;
        uint32_t group = mask->heads.query / mask->heads.kv, heads = mask->heads_at_once;
        if (heads == 0 || group % heads != 0)
            return fail(ENGINE_BAD_ARGUMENT, "sums over %u heads at once of a group of %u", heads, group);
        bool whole = heads == group;
        auto in_parts = [&](void *sum) { return whole ? nullptr : static_cast<float *>(sum); };
        auto as_whole = [&](void *sum) { return whole ? static_cast<T *>(sum) : nullptr; };
        Gradients<T> to{static_cast<T *>(dq), as_whole(dk), as_whole(dv), in_parts(dk), in_parts(dv),
                        static_cast<float *>(scratch), static_cast<const float *>(lse), static_cast<const T *>(d_o)};
        Inputs<T> in{static_cast<const T *>(q), static_cast<const T *>(k), static_cast<const T *>(v), *mask, wide};
        return launch_gradients(shape, to, in, static_cast<const T *>(o), stream);
    });
}

} // namespace ENGINE_NAMESPACE
