// attention: o = softmax(scale * q k^T + mask) v over the token tree, grouped kv heads, sliding window
//
//     row sees key j when  j <= i && i < end[j] && position[row] - position[j] < window,  i = slots[row]
//
// Shapes    q, o (N, H, Dh) T     k, v (S, K, Dh) T     lse (N, H) f32     decode: scratch N * H * 16 * (Dh + 2) f32, arrived (N)
//           rope_attention_decode: qkv (N, (H + 2K) * Dh) T in the place of q, and of the tokens' own rows of k and v
// Saved     q, k, v, o, lse (log-sum-exp of the scaled, masked scores)
// Backward  attention_backward.cu
// Numerics  scores, softmax and o in f32, one rounding at the store; p is rounded to bf16 for the tensor cores
// f32       attention_f32.cu: what follows here is bf16
// Order     a warp takes its half of every tile of keys in their order, the two halves are added at the end, the splits
//           of a decoded row after that, by the last block to finish a token (arrive.cuh): bit-equal reruns
// Cost      4 * Dh FLOP per (row, key, head) of the tiles of 32 keys that a block's rows see: latency bound at the some
//           hundred rows of a batch, hence blocks of 32 rows. A block's rows are pairs of a token and a head of one
//           group: k and v are read once for all heads of it, and its few tokens see few tiles. decode: memory bound
//
// Two buffers of 32 keys: while the scores are computed v arrives, while p v is computed the next k.
#include "attention.cuh"
#include "rope.cuh"

namespace ENGINE_NAMESPACE {
namespace {

using namespace attention;

constexpr uint32_t DECODE_BLOCKS = 256; // that decoding wants: two for each of the multiprocessors of an H100

template <class S, bool DECODE> struct Plan {
    static constexpr uint32_t BANDS = DECODE ? 1 : 2;
    static constexpr uint32_t PAIRS = BANDS * BAND; // rows of a block
    static constexpr uint32_t THREADS = BANDS * 2 * WARP;
    static constexpr uint32_t TOKENS = DECODE ? 1 : ENGINE_ATTENTION_TILE; // that share a list of tiles of keys
    // Of q. With nothing between its rows two blocks of 256 elements fit into the 100 KB of the smaller chips.
    static constexpr uint32_t PITCH = DECODE || S::DIM < 256 ? S::PITCH : S::DIM;
    static constexpr size_t INPUT_BYTES = (PAIRS * PITCH + 2 * TILE * S::PITCH) * sizeof(bf16);
    static constexpr size_t OUTPUT_BYTES = PAIRS * (S::PITCH + 4) * sizeof(float); // the sum, and two halves' stats
    static constexpr size_t SHARED_BYTES = INPUT_BYTES > OUTPUT_BYTES ? INPUT_BYTES : OUTPUT_BYTES;
};

/// Online softmax of two rows of a warp: their largest score so far, and the thread's share of the sum of powers.
struct Online {
    float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};

    /// Scores become powers; o is scaled to the new largest score.
    template <uint32_t N> __device__ void update(float (&s)[2][4], float (&o)[N][4]) {
        float shrink[2];
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            float top = larger(larger(s[0][2 * r], s[0][2 * r + 1]), larger(s[1][2 * r], s[1][2 * r + 1]));
            top = larger(max[r], row_max(top));
            float from = top == -INFINITY ? 0 : top; // nothing seen yet: -inf - -inf is NaN
            shrink[r] = exp2f(max[r] - from);
            max[r] = top;
            sum[r] *= shrink[r];
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                float &x = s[i / 2][2 * r + i % 2];
                x = exp2f(x - from);
                sum[r] += x;
            }
        }
        if (!__any_sync(~0u, shrink[0] != 1 || shrink[1] != 1)) return;
#pragma unroll
        for (uint32_t n = 0; n < N; n++)
            for (uint32_t i = 0; i < 4; i++) o[n][i] *= shrink[i / 2];
    }
};

/// q, k and v are as they will be used.
struct Ready {
    static constexpr bool IS_FRESH = false;
};

/// A row's q, k and v are a row of the product, neither normed nor rotated. Its key and value belong into the cache: nobody else sees
/// them, so that who meets them there first puts them there.
struct Fresh {
    static constexpr bool IS_FRESH = true;
    const bf16 *qkv; // (N, (H + 2K) * Dh)
    bf16 *k, *v;     // (S, K, Dh)
    engine_rope rope;

    /// Head `head` of the token, of all H + 2K.
    __device__ const bf16 *head(uint32_t token, uint32_t head) const {
        return qkv + token * row_width(rope.heads) + head * rope.heads.dim;
    }

    /// Head `head` of the token, a query or a key, normed and rotated, to shared memory and perhaps also elsewhere; by a warp.
    template <uint32_t W> __device__ void rotate(bf16 *to, bf16 *also, uint32_t token, uint32_t head) const {
        uint32_t dim = rope.heads.dim;
        const void *weight = head < rope.heads.query ? rope.q_norm : rope.k_norm;
        norm_and_rotate<W>(this->head(token, head), static_cast<const bf16 *>(weight), Angles(rope, token), dim,
                           static_cast<float>(rope.eps), [&](const Pair<W> &rotated, uint32_t i) {
                               rotated.write(to + i, dim / 2);
                               if (also) rotated.write(also + i, dim / 2);
                           });
    }

    /// As rope_forward chooses its accesses: the same bits.
    __device__ void rotate(bf16 *to, bf16 *also, uint32_t token, uint32_t head, bool wide) const {
        if (wide && rope.heads.dim / 2 % CHUNK == 0)
            rotate<CHUNK>(to, also, token, head);
        else
            rotate<1>(to, also, token, head);
    }

    /// The block's rows of q, and rows of zeros.
    template <class S, class P> __device__ void queries(bf16 *to, const Pairs &pairs, bool wide) const {
        const float zeros[CHUNK] = {};
        for (uint32_t i = threadIdx.x * CHUNK; i < P::PAIRS * S::PITCH; i += P::THREADS * CHUNK) store(to + i, zeros);
        __syncthreads();
        for (uint32_t p = threadIdx.x / WARP; p < pairs.count; p += P::THREADS / WARP) {
            uint32_t head = pairs.kv_head * pairs.group + pairs.first + p;
            rotate(to + p * S::PITCH, nullptr, pairs.first_token, head, wide);
        }
    }

    /// The token's own key, to its row of a tile and to the cache, by the first warp, and by the second its value to the cache.
    __device__ void own(bf16 *to, const Pairs &pairs, uint32_t slot, bool wide) const {
        uint32_t token = pairs.first_token, dim = rope.heads.dim, k_head = rope.heads.query + pairs.kv_head;
        size_t at = (size_t(slot) * rope.heads.kv + pairs.kv_head) * dim;
        if (threadIdx.x / WARP == 0) {
            rotate(to, k + at, token, k_head, wide);
            return;
        }
        const bf16 *value = head(token, k_head + rope.heads.kv);
        for (uint32_t i = threadIdx.x % WARP; i < dim; i += WARP) v[at + i] = value[i];
    }
};

/// What all tiles in the walk give to a warp's rows: o not yet divided by the sum, of its half of each tile.
template <class S, bool DECODE, class From>
__device__ inline void attend(float (&o)[S::DIM / 8][4], Online &online, bf16 *shared, const Inputs<bf16> &in,
                              const From &from, const Pairs &pairs, const KeyWalk &walk, uint32_t first,
                              const Place &place) {
    using P = Plan<S, DECODE>;
    static_assert(DECODE || !From::IS_FRESH);
    bf16 *q = shared, *k = q + P::PAIRS * P::PITCH, *v = k + TILE * S::PITCH;
    uint32_t dim = in.mask.heads.dim, kv_heads = in.mask.heads.kv;
    uint32_t own_slot = From::IS_FRESH ? in.mask.slots[pairs.first_token] : 0;
    // `own` is in the place of what the cache does not have yet.
    auto load_keys = [&](bf16 *to, const bf16 *all, const Keys &keys, const bf16 *own) {
        // A fresh key of another token, which this one does not see, is being written.
        uint32_t held = From::IS_FRESH ? keys.seen : keys.held;
        load_rows<S, TILE, P::THREADS>(to, all, dim, in.wide, [&](uint32_t r) {
            const bf16 *row = all + (size_t(keys.base + r) * kv_heads + pairs.kv_head) * dim;
            if (From::IS_FRESH && keys.base + r == own_slot) return own;
            return held >> r & 1 ? row : nullptr;
        });
        copy_commit();
    };
    Rows rows(in.mask, pairs, place);
    float scale = static_cast<float>(in.mask.scale) * LOG2_E;
    Keys keys = walk.fetch(first);
    walk.settle(keys);
    if (keys.at >= walk.end) return;
    const bf16 *own_value = nullptr;
    if constexpr (From::IS_FRESH) {
        const engine_heads &heads = from.rope.heads;
        own_value = from.head(pairs.first_token, heads.query + heads.kv + pairs.kv_head);
        load_keys(k, in.k, keys, nullptr);
        from.template queries<S, P>(q, pairs, in.wide);
    } else {
        load_rows<S, P::PAIRS, P::THREADS, P::PITCH>(q, in.q, dim, in.wide, [&](uint32_t r) {
            return r < pairs.count ? in.q + pairs.index(r) * dim : nullptr;
        });
        load_keys(k, in.k, keys, nullptr);
    }
    while (keys.at < walk.end) {
        Keys next = walk.fetch(keys.at + 1);
        copy_wait<0>();
        __syncthreads(); // k is here, and nobody needs the last v
        load_keys(v, in.v, keys, own_value);
        if constexpr (From::IS_FRESH) {
            if (own_slot - keys.base < TILE) { // the same for all of the block
                from.own(k + (own_slot - keys.base) * S::PITCH, pairs, own_slot, in.wide);
                __syncthreads();
            }
        }
        bool seen = place.own(keys.seen);
        Weights p;
        if (seen) {
            float s[2][4];
            multiply<S, P::PITCH>(s, q + place.band * BAND * P::PITCH, k + place.half * BAND * S::PITCH, place.lane);
#pragma unroll
            for (uint32_t i = 0; i < 8; i++) s[i / 4][i % 4] *= scale;
            hide(s, keys, rows, place, in.mask.window);
            online.update(s, o);
            p = Weights::of(s);
        }
        walk.settle(next);
        copy_wait<0>();
        __syncthreads(); // v is here, and nobody needs k
        if (next.at < walk.end) load_keys(k, in.k, next, nullptr);
        if (seen) accumulate<S, S::DIM>(o, p, v + place.half * BAND * S::PITCH, place.lane);
        keys = next;
    }
}

/// Block (tile of queries, pairs in it and kv head, split).
template <class S, bool DECODE, class Out, class From>
__global__ void __launch_bounds__(Plan<S, DECODE>::THREADS)
    attention_kernel(Out out, const __grid_constant__ Inputs<bf16> in, const __grid_constant__ From from) {
    wait_for_earlier_kernels();
    using P = Plan<S, DECODE>;
    DYNAMIC_SHARED(bf16, shared, P::SHARED_BYTES);
    Place place;
    uint32_t tile = gridDim.x - 1 - blockIdx.x; // the last rows, which see most, come first
    uint32_t kv_heads = in.mask.heads.kv;
    Pairs pairs(in.mask, tile, P::TOKENS, blockIdx.y / kv_heads, P::PAIRS, blockIdx.y % kv_heads);
    if (pairs.count == 0) return;
    uint32_t first = in.mask.key_starts[tile], steps = (in.mask.key_starts[tile + 1] - first) * STEPS;
    uint32_t begin = uint64_t(steps) * blockIdx.z / gridDim.z, end = uint64_t(steps) * (blockIdx.z + 1) / gridDim.z;
    KeyWalk walk{in.mask, in.mask.key_tiles + first, end, place.lane, Extent(in.mask, pairs, place.lane)};
    float o[S::DIM / 8][4] = {};
    Online online;
    attend<S, DECODE>(o, online, shared, in, from, pairs, walk, begin, place);

    float *total = reinterpret_cast<float *>(shared), *stats = total + P::PAIRS * S::PITCH;
    __syncthreads(); // nobody needs the tiles
#pragma unroll
    for (uint32_t r = 0; r < 2; r++) {
        const float own[2] = {online.max[r], row_sum(online.sum[r])};
        if (place.column == 0) store(stats + (place.band * BAND + place.row + 8 * r) * 4 + place.half * 2, own);
    }
    __syncthreads();
#pragma unroll
    for (uint32_t r = 0; r < 2; r++) {
        uint32_t pair = place.band * BAND + place.row + 8 * r;
        float both[4];
        load(both, stats + pair * 4);
        float max = larger(both[0], both[2]), from = max == -INFINITY ? 0 : max; // a split may see nothing
        float sum = both[1] * exp2f(both[0] - from) + both[3] * exp2f(both[2] - from);
        float factor = exp2f(online.max[r] - from);
        bool tells = place.half == 0 && place.column == 0 && pair < pairs.count;
        if constexpr (DECODE) {
            float *to = out.stats + (pairs.index(pair) * out.splits + blockIdx.z) * 2;
            if (tells) to[0] = max / LOG2_E, to[1] = sum;
        } else {
            factor /= sum;
            if (tells) out.lse[pairs.index(pair)] = max / LOG2_E + logf(sum);
        }
#pragma unroll
        for (uint32_t n = 0; n < S::DIM / 8; n++) o[n][2 * r] *= factor, o[n][2 * r + 1] *= factor;
    }
    add_halves<S>(total, o, place);
    uint32_t dim = in.mask.heads.dim;
    if constexpr (DECODE) {
        store_rows<S, P::THREADS, float>(total, pairs.count, dim, in.wide, [&](uint32_t r) {
            return out.parts + (pairs.index(r) * out.splits + blockIdx.z) * dim;
        });
        if (!last_block(out.arrived + tile, gridDim.y * gridDim.z)) return;
        uint32_t heads = in.mask.heads.query;
        for (uint32_t head = threadIdx.x / WARP; head < heads; head += P::THREADS / WARP)
            combine_row(out, size_t(tile) * heads + head, dim);
    } else {
        store_rows<S, P::THREADS, bf16>(total, pairs.count, dim, in.wide,
                                        [&](uint32_t r) { return out.o + pairs.index(r) * dim; });
    }
}

template <class S, bool DECODE, class Out, class From>
engine_status launch(const Out &out, const Inputs<bf16> &in, const From &from, uint32_t splits, engine_stream stream) {
    using P = Plan<S, DECODE>;
    const engine_attention &mask = in.mask;
    uint32_t group = mask.heads.query / mask.heads.kv;
    dim3 grid(ceil_div(mask.n, P::TOKENS), ceil_div(P::TOKENS * group, P::PAIRS) * mask.heads.kv, splits);
    return LAUNCH((attention_kernel<S, DECODE, Out, From>), grid, P::THREADS, P::SHARED_BYTES, stream, out, in, from);
}

template <class S>
engine_status launch_attention(S, const Output<bf16> &out, const Inputs<bf16> &in, engine_stream stream) {
    return launch<S, false>(out, in, Ready{}, 1, stream);
}

template <class S>
engine_status launch_attention(S, const SplitOutput<bf16> &out, const Inputs<bf16> &in, engine_stream stream) {
    return launch<S, true>(out, in, Ready{}, out.splits, stream);
}

/// Where decoding puts o, and before that its parts.
template <class T> SplitOutput<T> split_output(void *o, void *scratch, const engine_attention &mask) {
    uint32_t rows = mask.n * mask.heads.query, dim = mask.heads.dim;
    uint32_t most = ceil_div(mask.s, TILE), splits = ceil_div(DECODE_BLOCKS, uint64_t(mask.n) * mask.heads.kv);
    splits = splits < most ? splits : most;
    splits = splits < 1 ? 1 : splits < ENGINE_DECODE_SPLITS ? splits : ENGINE_DECODE_SPLITS;
    auto *parts = static_cast<float *>(scratch);
    return {static_cast<T *>(o), parts, parts + size_t(rows) * splits * dim, mask.arrived, splits};
}

} // namespace

engine_status attention_forward(void *o, void *lse, const void *q, const void *k, const void *v,
                                const engine_attention *mask, engine_stream stream) {
    if (mask->n == 0) return ENGINE_OK;
    return with_shape(*mask, {o, q, k, v}, [&](auto shape, bool wide) {
        using T = typename decltype(shape)::Type;
        Inputs<T> in{static_cast<const T *>(q), static_cast<const T *>(k), static_cast<const T *>(v), *mask, wide};
        return launch_attention(shape, Output<T>{static_cast<T *>(o), static_cast<float *>(lse)}, in, stream);
    });
}

engine_status attention_decode(void *o, void *scratch, const void *q, const void *k, const void *v,
                               const engine_attention *mask, engine_stream stream) {
    if (mask->n == 0) return ENGINE_OK;
    return with_shape(*mask, {o, scratch, q, k, v}, [&](auto shape, bool wide) {
        using T = typename decltype(shape)::Type;
        Inputs<T> in{static_cast<const T *>(q), static_cast<const T *>(k), static_cast<const T *>(v), *mask, wide};
        return launch_attention(shape, split_output<T>(o, scratch, *mask), in, stream);
    });
}

engine_status rope_attention_decode(void *o, void *scratch, void *k, void *v, const void *qkv, const engine_rope *rope,
                                    const engine_attention *mask, engine_stream stream) {
    if (mask->dtype != ENGINE_BF16) return fail(ENGINE_BAD_ARGUMENT, "rope_attention_decode is for bf16");
    if (mask->n == 0) return ENGINE_OK;
    auto pointers = {(const void *)o, (const void *)scratch, (const void *)k, (const void *)v, qkv, rope->q_norm,
                     rope->k_norm, rope->cos, rope->sin};
    return with_shape(*mask, pointers, [&](auto shape, bool wide) -> engine_status {
        using S = decltype(shape);
        if constexpr (std::is_same_v<S, Plain>) {
            return no_dtype(mask->dtype);
        } else {
            uint32_t group = mask->heads.query / mask->heads.kv;
            if (mask->heads.dim % 2 != 0 || group > BAND)
                return fail(ENGINE_BAD_ARGUMENT, "groups of %u heads of %u elements: it takes at most %u, of an even number",
                            group, mask->heads.dim, BAND);
            auto *keys = static_cast<bf16 *>(k), *values = static_cast<bf16 *>(v);
            auto out = split_output<bf16>(o, scratch, *mask);
            Fresh from{static_cast<const bf16 *>(qkv), keys, values, *rope};
            return launch<S, true>(out, Inputs<bf16>{nullptr, keys, values, *mask, wide}, from, out.splits, stream);
        }
    });
}

} // namespace ENGINE_NAMESPACE
