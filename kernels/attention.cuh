// Building blocks of attention.cu and attention_backward.cu: tiles in shared memory, products of a warp, the mask. All
// but the part of the launchers is bf16 on tensor cores: f32 has plain kernels (attention_f32.cu).
//
// A block works on tiles of 32 rows, one for each lane of a warp, so that what the mask needs of a tile is a register
// and a vote. Two warps share a band of 16 rows that the block owns: each takes one half (16 rows) of the tile that
// is walked over, and what they found is added in this order at the end. With 16 rows on either side a warp's product
// is two instructions of the tensor cores per 16 elements of a row, and a head_dim of 256 fits into registers.
//
// Products are written for fragments of mma.m16n8k16 (tensor_core.cuh). Rows lie in shared memory with 16 bytes between
// them, or with their chunks permuted, which keeps ldmatrix and accesses of 16 bytes free of bank conflicts.
#pragma once

#include "arrive.cuh"
#include "reduce.cuh"
#include "tensor_core.cuh"

namespace ENGINE_NAMESPACE::attention {

constexpr uint32_t TILE = 32; // rows of a tile that is walked over
constexpr uint32_t BAND = 16; // rows of a warp's product
constexpr uint32_t STEPS = ENGINE_ATTENTION_TILE / TILE;
constexpr uint32_t HALF_MASK = 0xffff;
constexpr uint32_t CHUNK = 8; // elements of bf16 in 16 bytes

constexpr float LOG2_E = 1.44269504f; // the softmax is in powers of 2

/// What a kernel of bf16 is made for: a head_dim that holds the real one; what is beyond it is zeros.
template <uint32_t D> struct Shape {
    using Type = bf16;
    static constexpr uint32_t DIM = D;
    static constexpr uint32_t PITCH = DIM + CHUNK; // of rows in shared memory, bf16 and f32
};

/// f32: for every head_dim the same kernels.
struct Plain {
    using Type = float;
};

/// Where a thread is. It holds rows `row` and `row + 8` of its band, columns `column` and the next of every 8.
struct Place {
    uint32_t lane, band, half, row, column;

    __device__ Place()
        : lane(threadIdx.x % WARP), band(threadIdx.x / (2 * WARP)), half(threadIdx.x / WARP % 2), row(lane / 4),
          column(lane % 4 * 2) {}
    /// The part of a vote over a tile that is about this warp's half.
    __device__ uint32_t own(uint32_t votes) const { return votes >> (BAND * half) & HALF_MASK; }
};

__device__ inline float larger(float a, float b) { return a > b ? a : b; }

// ---- tiles in shared memory

/// Where an element is in rows that lie PITCH apart. With nothing between them (S::DIM) chunk c of row r is in the place of c ^ r % 8: what
/// 8 rows have in a column is in different banks then, too.
template <class S, uint32_t PITCH> __device__ inline uint32_t place_in_rows(uint32_t row, uint32_t column) {
    static_assert(PITCH == S::PITCH || (PITCH == S::DIM && S::DIM % (8 * CHUNK) == 0));
    return row * PITCH + (PITCH == S::DIM ? column ^ row % 8 * CHUNK : column);
}

/// Starts to copy ROWS rows of `dim` elements; row(r) is where row r begins, or null for a row of zeros. Without `wide`
/// the rows are not 16-byte aligned, and the copy is done at once.
template <class S, uint32_t ROWS, uint32_t THREADS, uint32_t PITCH = S::PITCH, class Row>
__device__ inline void load_rows(bf16 *to, const bf16 *anchor, uint32_t dim, bool wide, const Row &row) {
    constexpr uint32_t CHUNKS = S::DIM / CHUNK;
    static_assert(ROWS * CHUNKS % THREADS == 0);
#pragma unroll 4
    for (uint32_t i = 0; i < ROWS * CHUNKS / THREADS; i++) {
        uint32_t x = i * THREADS + threadIdx.x, column = x % CHUNKS * CHUNK;
        const bf16 *from = row(x / CHUNKS);
        bf16 *target = to + place_in_rows<S, PITCH>(x / CHUNKS, column);
        if (wide) {
            bool held = from && column < dim;
            copy_async_16_or_zero(target, held ? from + column : anchor, held);
        } else {
            for (uint32_t j = 0; j < CHUNK; j++) target[j] = from && column + j < dim ? from[column + j] : bf16{0};
        }
    }
}

// ---- products of a warp

/// c (16, 16) = a (16, DIM) b (16, DIM)^T, both in shared memory, rows of a A_PITCH apart.
template <class S, uint32_t A_PITCH = S::PITCH>
__device__ inline void multiply(float (&c)[2][4], const bf16 *a, const bf16 *b, uint32_t lane) {
    const bf16 *b_row = b + (lane / 16 * 8 + lane % 8) * S::PITCH + lane / 8 % 2 * 8;
    float odd[2][4] = {}; // of every second step: four chains of sums hide the latency of one another
#pragma unroll
    for (uint32_t i = 0; i < 2; i++)
        for (uint32_t j = 0; j < 4; j++) c[i][j] = 0;
#pragma unroll
    for (uint32_t d = 0; d < S::DIM; d += 16) {
        uint32_t a_fragment[4], b_fragment[4];
        ldmatrix(a_fragment, a + place_in_rows<S, A_PITCH>(lane % 16, lane / 16 * 8 + d));
        ldmatrix(b_fragment, b_row + d);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++)
            mma_bf16(d % 32 == 0 ? c[i] : odd[i], a_fragment, {b_fragment[2 * i], b_fragment[2 * i + 1]});
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; i++)
        for (uint32_t j = 0; j < 4; j++) c[i][j] += odd[i][j];
}

/// c (16, 16) of a product, ready to be the left side of the next.
struct alignas(16) Weights {
    uint32_t at[4];
    __device__ static Weights of(const float (&c)[2][4]) {
        return {pack_bf16(c[0][0], c[0][1]), pack_bf16(c[0][2], c[0][3]), pack_bf16(c[1][0], c[1][1]),
                pack_bf16(c[1][2], c[1][3])};
    }
};

/// c (16, COLUMNS) += weights (16, 16) b (16, COLUMNS), b in shared memory. The weights are in registers: by value.
template <class S, uint32_t COLUMNS>
__device__ inline void accumulate(float (&c)[COLUMNS / 8][4], Weights weights, const bf16 *b, uint32_t lane) {
    const bf16 *b_row = b + lane % 16 * S::PITCH + lane / 16 * 8;
#pragma unroll
    for (uint32_t n = 0; n < COLUMNS; n += 16) {
        uint32_t fragment[4];
        ldmatrix_transposed(fragment, b_row + n);
        mma_bf16(c[n / 8], weights.at, {fragment[0], fragment[1]});
        mma_bf16(c[n / 8 + 1], weights.at, {fragment[2], fragment[3]});
    }
}

/// The sum over the four lanes that share a row.
__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

__device__ inline float row_max(float x) {
    x = larger(x, __shfl_xor_sync(~0u, x, 1));
    return larger(x, __shfl_xor_sync(~0u, x, 2));
}

// ---- the rows of queries that a block owns

/// Rows of q: pairs of a token and a query head that reads kv head `kv_head`, token by token, so that the heads of a
/// group share the tiles of keys, and a block's tokens are few and see much the same.
struct Pairs {
    uint32_t first_token, first, count; // of this block; pair p is number `first + p` from `first_token` on
    uint32_t group, num_heads, kv_head;

    /// Block `block` of those that own a tile of queries, `per_block` pairs each.
    __device__ Pairs(const engine_attention &mask, uint32_t tile, uint32_t tile_tokens, uint32_t block,
                     uint32_t per_block, uint32_t kv_head)
        : first_token(tile * tile_tokens), first(block * per_block), group(mask.heads.query / mask.heads.kv),
          num_heads(mask.heads.query), kv_head(kv_head) {
        uint32_t left = mask.n - first_token, all = (left < tile_tokens ? left : tile_tokens) * group;
        count = first >= all ? 0 : all - first < per_block ? all - first : per_block;
    }
    __device__ uint32_t token(uint32_t p) const { return first_token + (first + p) / group; }
    /// Index in (N, H).
    __device__ size_t index(uint32_t p) const {
        return size_t(token(p)) * num_heads + kv_head * group + (first + p) % group;
    }
};

/// What the mask needs of the tokens of `Pairs`: the most and the least that one of them sees.
struct Extent {
    uint32_t first_slot, last_slot, least_position, most_position;

    __device__ Extent(const engine_attention &mask, const Pairs &pairs, uint32_t lane) {
        uint32_t first = pairs.token(0), last = pairs.token(pairs.count - 1);
        uint32_t position = mask.positions[first + lane < last ? first + lane : last]; // at most 32 tokens
        first_slot = mask.slots[first], last_slot = mask.slots[last];
        least_position = warp_reduce(position, [](uint32_t a, uint32_t b) { return a < b ? a : b; });
        most_position = warp_reduce(position, [](uint32_t a, uint32_t b) { return a > b ? a : b; });
    }
};

/// Slots and positions of the two rows that a thread holds. Rows beyond the last pair are copies of it, never stored.
struct Rows {
    uint32_t pair[2], slot[2], position[2];

    __device__ Rows(const engine_attention &mask, const Pairs &pairs, const Place &place) {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t p = place.band * BAND + place.row + 8 * i;
            pair[i] = p < pairs.count ? p : pairs.count - 1;
            slot[i] = mask.slots[pairs.token(pair[i])];
            position[i] = mask.positions[pairs.token(pair[i])];
        }
    }
};

// ---- the walk over tiles of keys

/// A tile of keys: what this lane knows about its own key, and votes, a bit per key.
struct Keys {
    uint32_t at, base, end, position;
    uint32_t seen;  // keys that some row of the block may see
    uint32_t clear; // keys that every row sees
    uint32_t held;  // slots that hold something: the others may be NaN, and are read as zeros
};

/// The tiles of keys in a range of a list of tiles, those that no row of the block sees left out.
struct KeyWalk {
    const engine_attention &mask;
    const uint32_t *tiles;
    uint32_t end, lane;
    Extent extent;

    /// What lane knows: global memory is on its way while the block does something else.
    __device__ Keys fetch(uint32_t at) const {
        Keys keys = {};
        keys.at = at;
        if (at >= end) return keys;
        keys.base = tiles[at / STEPS] * ENGINE_ATTENTION_TILE + at % STEPS * TILE;
        uint32_t key = keys.base + lane;
        if (key < mask.s) keys.end = mask.end[key], keys.position = mask.key_positions[key];
        return keys;
    }

    /// The votes. A token below a key in the tree is not before it, so that the distance does not wrap.
    __device__ void vote(Keys &keys) const {
        uint32_t key = keys.base + lane;
        bool seen = key <= extent.last_slot && extent.first_slot < keys.end &&
                    (extent.least_position <= keys.position || extent.least_position - keys.position < mask.window);
        bool clear = key <= extent.first_slot && extent.last_slot < keys.end &&
                     extent.most_position - keys.position < mask.window;
        keys.seen = __ballot_sync(~0u, seen);
        keys.clear = __ballot_sync(~0u, clear);
        keys.held = __ballot_sync(~0u, keys.end != 0);
    }

    /// Goes on from what was fetched to the first tile that is seen.
    __device__ void settle(Keys &keys) const {
        for (;;) {
            vote(keys);
            if (keys.seen || keys.at >= end) return;
            keys = fetch(keys.at + 1);
        }
    }
};

/// Scores of the keys that a row does not see become -inf.
__device__ inline void hide(float (&s)[2][4], const Keys &keys, const Rows &rows, const Place &place, uint32_t window) {
    if (place.own(keys.clear) == HALF_MASK) return;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t at = BAND * place.half + i / 2 * 8 + place.column + i % 2, key = keys.base + at;
        uint32_t end = __shfl_sync(~0u, keys.end, at), position = __shfl_sync(~0u, keys.position, at);
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            bool sees = key <= rows.slot[r] && rows.slot[r] < end && rows.position[r] - position < window;
            if (!sees) s[i / 2][2 * r + i % 2] = -INFINITY;
        }
    }
}

// ---- the end of a block

/// sum (rows of the block, DIM) in shared memory = both halves' c. All threads may read it afterwards.
template <class S>
__device__ inline void add_halves(float *sum, const float (&c)[S::DIM / 8][4], const Place &place) {
    float *own = sum + (place.band * BAND + place.row) * S::PITCH + place.column;
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        if (place.half == half) {
#pragma unroll
            for (uint32_t i = 0; i < S::DIM / 4; i++) { // row i % 2 of the 8 columns i / 2
                float *to = own + i % 2 * 8 * S::PITCH + i / 2 * 8;
                float pair[2] = {0, 0};
                if (half == 1) load(pair, to);
                pair[0] += c[i / 2][i % 2 * 2], pair[1] += c[i / 2][i % 2 * 2 + 1];
                store(to, pair);
            }
        }
        __syncthreads();
    }
}

/// Writes the rows of the block; row(r) is where row r goes. With `wide` in accesses of 16 bytes.
template <class S, uint32_t THREADS, class Out, class Row>
__device__ inline void store_rows(const float *sum, uint32_t rows, uint32_t dim, bool wide, const Row &row) {
    constexpr uint32_t CHUNKS = S::DIM / CHUNK;
    for (uint32_t x = threadIdx.x; x < rows * CHUNKS; x += THREADS) {
        uint32_t column = x % CHUNKS * CHUNK;
        float values[CHUNK];
        load(values, sum + x / CHUNKS * S::PITCH + column);
        Out *to = row(x / CHUNKS);
        if (wide && column < dim) {
            store(to + column, values);
        } else {
            for (uint32_t i = 0; i < CHUNK && column + i < dim; i++) to[column + i] = from_float<Out>(values[i]);
        }
    }
}

// ---- outputs

/// Tensors and mask, as a kernel gets them.
template <class T> struct Inputs {
    const T *q, *k, *v;
    engine_attention mask;
    bool wide; // rows are 16-byte aligned
};

/// Where o goes.
template <class T> struct Output {
    T *o;
    float *lse;
};
/// Where o goes in parts, for shares of the keys, until the last to finish a token adds them up.
template <class T> struct SplitOutput {
    T *o;
    float *parts;      // (N, H, splits, Dh), not divided by the sum
    float *stats;      // (N, H, splits, 2): largest score, sum
    uint32_t *arrived; // (N): who has finished
    uint32_t splits;
};

/// Row `row` of o (N * H, Dh) from the parts of its splits, in their order; by a warp.
template <class T> __device__ inline void combine_row(const SplitOutput<T> &out, size_t row, uint32_t dim) {
    constexpr uint32_t COLUMNS = 256 / WARP; // of a lane: all of a split's are on their way at once
    uint32_t lane = threadIdx.x % WARP;
    const float *stats = out.stats + row * out.splits * 2, *part = out.parts + row * out.splits * dim;
    float own = lane < out.splits ? stats[2 * lane] : -INFINITY;
    float max = warp_reduce(own, larger), factor = lane < out.splits ? expf(own - max) : 0;
    factor /= warp_sum(lane < out.splits ? stats[2 * lane + 1] * factor : 0);
    float total[COLUMNS] = {};
#pragma unroll 4
    for (uint32_t split = 0; split < out.splits; split++) {
        float weight = __shfl_sync(~0u, factor, split);
#pragma unroll
        for (uint32_t i = 0; i < COLUMNS; i++)
            if (i * WARP + lane < dim) total[i] += part[size_t(split) * dim + i * WARP + lane] * weight;
    }
#pragma unroll
    for (uint32_t i = 0; i < COLUMNS; i++)
        if (i * WARP + lane < dim) out.o[row * dim + i * WARP + lane] = from_float<T>(total[i]);
}

// ---- launchers

template <class T> struct Gradients {
    T *dq;
    T *dk, *dv;                 // null where parts are asked for
    float *dk_parts, *dv_parts; // of `heads_at_once` query heads each; null where a block adds up the heads of a group
    float *delta;
    const float *lse;
    const T *d_o;
};

/// Of f32 (attention_f32.cu); attention.cu and attention_backward.cu have the same of bf16.
engine_status launch_attention(Plain, const Output<float> &out, const Inputs<float> &in, engine_stream stream);
engine_status launch_attention(Plain, const SplitOutput<float> &out, const Inputs<float> &in, engine_stream stream);
engine_status launch_gradients(Plain, const Gradients<float> &to, const Inputs<float> &in, const float *o,
                               engine_stream stream);

/// Calls `launch(Plain(), wide)` for f32, and for bf16 `launch(Shape<DIM>(), wide)` with the smallest DIM that holds
/// head_dim. There are three, because each is three unrolled kernels to compile: Gemma's 256, 128 as in most other
/// models, and 32 for tests.
template <class Launch>
engine_status with_shape(const engine_attention &mask, std::initializer_list<const void *> pointers,
                         const Launch &launch) {
    engine_heads heads = mask.heads;
    if (heads.kv == 0 || heads.query == 0 || heads.query % heads.kv != 0)
        return fail(ENGINE_BAD_ARGUMENT, "%u query heads on %u kv heads", heads.query, heads.kv);
    if (heads.dim == 0 || heads.dim > 256)
        return fail(ENGINE_BAD_ARGUMENT, "a head_dim of %u; attention knows 1 to 256", heads.dim);
    return with_access(mask.dtype, heads.dim, pointers, [&](auto access) {
        constexpr bool wide = decltype(access)::WIDTH > 1;
        if constexpr (sizeof(typename decltype(access)::Type) == 4) {
            return launch(Plain(), wide);
        } else {
            if (heads.dim <= 32) return launch(Shape<32>(), wide);
            if (heads.dim <= 128) return launch(Shape<128>(), wide);
            return launch(Shape<256>(), wide);
        }
    });
}

} // namespace ENGINE_NAMESPACE::attention
