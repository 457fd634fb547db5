// rope: q and k normed per head and rotated by their positions, v copied, in one pass over the fused product
//
//     u = x * rstd * (1 + norm),  rstd = 1 / sqrt(mean(x^2) + eps), over each head
//     y[i] = u[i] cos - u[i + Dh/2] sin;  y[i + Dh/2] = u[i + Dh/2] cos + u[i] sin,  i < Dh/2
//
// Shapes    qkv, dqkv (N, (H + 2K) * Dh) T     q, dq (N, H, Dh) T     k, v (S, K, Dh), dk, dv (N, K, Dh) T
//           dk, dv in parts: (N, K, split, Dh) f32
//           q_norm, k_norm (Dh) T     dq_norm, dk_norm (Dh) f32     cos, sin (P, Dh/2) f32     parts (ceil(N / rows), Dh) f32
// Saved     qkv, norms, cos, sin; rstd is computed again
// Backward  du = dy rotated by -angle;  g = du * (1 + norm);  dx = rstd * (g - x * rstd^2 * mean(g * x));
//           dnorm += sum over rows and heads of du * x * rstd, in parts of `rows` rows;  dv passes through
// Numerics  f32 inside, one rounding at the store
// Order     dnorm: a warp adds its heads, a block its warps, sum_parts the blocks; parts of dk and dv are added as they are read:
//           each in order, no atomics
// Cost      forward 2 * N * (H + 2K) * Dh * sizeof(T) bytes, backward 3: memory bound. Forward: a warp per row and head.
//           Backward: a block per `rows` rows, whose warps go over the heads
#include "rope.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t ROWS = 4; // heads of a block of the forward, a warp each
constexpr uint32_t WARPS = 8; // of a block of the backward, at most
constexpr uint32_t SHARED_BYTES = 48 * 1024; // what a block gets without asking

/// The gradient that arrives at a head: Dh elements, or with split > 1 parts (split, Dh) of which they are the rounded sums.
template <class T> struct Arrived {
    const void *from;
    uint32_t split;

    /// Of head `head` of `all`.
    __device__ Arrived(const void *all, size_t head, uint32_t dim, uint32_t split)
        : from(split == 1 ? static_cast<const void *>(static_cast<const T *>(all) + head * dim)
                          : static_cast<const float *>(all) + head * split * dim),
          split(split) {}
    template <uint32_t W> __device__ void read(Pair<W> &to, uint32_t i, uint32_t half) const {
        if (split == 1) return to.read(static_cast<const T *>(from) + i, half);
        Pair<W> part;
        to = {};
        for (uint32_t p = 0; p < split; p++) {
            part.read(static_cast<const float *>(from) + p * 2 * half + i, half);
            to.add(part);
        }
        to.template round<T>();
    }
};

template <class T, uint32_t W>
__global__ void __launch_bounds__(ROWS *WARP) rope_forward_kernel(T *q, T *k, T *v, const T *qkv, engine_rope rope) {
    wait_for_earlier_kernels();
    const engine_heads &heads = rope.heads;
    uint32_t all = heads.query + 2 * heads.kv, dim = heads.dim, half = dim / 2;
    uint64_t index = uint64_t(blockIdx.x) * ROWS + threadIdx.x / WARP;
    uint32_t row = static_cast<uint32_t>(index / all), head = static_cast<uint32_t>(index % all);
    if (row >= rope.n) return;
    uint32_t first = threadIdx.x % WARP * W, slot = rope.slots ? rope.slots[row] : row;
    const T *x = qkv + index * dim;
    if (head >= heads.query + heads.kv) {
        Pair<W> u;
        T *y = v + (size_t(slot) * heads.kv + head - heads.query - heads.kv) * dim;
        for (uint32_t i = first; i < half; i += WARP * W) {
            u.read(x + i, half);
            u.write(y + i, half);
        }
        return;
    }
    bool query = head < heads.query;
    T *y = query ? q + (size_t(row) * heads.query + head) * dim : k + (size_t(slot) * heads.kv + head - heads.query) * dim;
    const T *weight = static_cast<const T *>(query ? rope.q_norm : rope.k_norm);
    norm_and_rotate<W>(x, weight, Angles(rope, row), dim, static_cast<float>(rope.eps),
                       [&](const Pair<W> &rotated, uint32_t i) { rotated.write(y + i, half); });
}

/// dx of one head, by a warp; what it adds to its norm's gradient goes to `sums` (Dh).
template <class T, uint32_t W>
__device__ inline void backward_head(T *dx, float *sums, const Arrived<T> &dy, const T *x, const T *weight,
                                     const Angles &angles, uint32_t dim, float eps) {
    uint32_t half = dim / 2, first = threadIdx.x % WARP * W;
    Pair<W> values, slopes, norm, total;
    float squares = 0, products = 0;
    for (uint32_t i = first; i < half; i += WARP * W) {
        values.read(x + i, half);
        dy.read(slopes, i, half);
        norm.read(weight + i, half);
        slopes.rotate(angles.cos + i, angles.sin + i, -1);
        slopes.weigh(1, norm);
        squares += values.dot(values);
        products += values.dot(slopes);
    }
    float scale = rsqrtf(warp_sum(squares) / dim + eps);
    float pull = scale * scale * scale * (warp_sum(products) / dim);
    for (uint32_t i = first; i < half; i += WARP * W) {
        values.read(x + i, half);
        dy.read(slopes, i, half);
        norm.read(weight + i, half);
        total.read(sums + i, half);
        slopes.rotate(angles.cos + i, angles.sin + i, -1);
        for (uint32_t j = 0; j < W; j++) {
            total.low[j] += slopes.low[j] * values.low[j] * scale;
            total.high[j] += slopes.high[j] * values.high[j] * scale;
        }
        total.write(sums + i, half);
        slopes.weigh(scale, norm);
        for (uint32_t j = 0; j < W; j++) {
            slopes.low[j] -= values.low[j] * pull;
            slopes.high[j] -= values.high[j] * pull;
        }
        slopes.write(dx + i, half);
    }
}

/// A block does `rows` rows, a warp every head in as many as there are warps; q_parts and k_parts (blocks, Dh) may be null.
template <class T, uint32_t W>
__global__ void __launch_bounds__(WARPS *WARP)
    rope_backward_kernel(T *dqkv, float *q_parts, float *k_parts, const T *dq, const void *dk, const void *dv, const T *qkv,
                         engine_rope rope, uint32_t split, uint32_t rows) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED(float, sums, SHARED_BYTES); // (2, warps, Dh)
    const engine_heads &heads = rope.heads;
    uint32_t dim = heads.dim, half = dim / 2, all = heads.query + 2 * heads.kv;
    uint32_t warps = blockDim.x / WARP, warp = threadIdx.x / WARP, first = threadIdx.x % WARP * W;
    uint32_t begin = blockIdx.x * rows, count = rope.n - begin < rows ? rope.n - begin : rows;
    float *q_own = sums + warp * dim, *k_own = q_own + warps * dim;
    Pair<W> pair{};
    for (uint32_t i = first; i < half; i += WARP * W) pair.write(q_own + i, half), pair.write(k_own + i, half);
    for (uint32_t index = warp; index < count * all; index += warps) {
        uint32_t row = begin + index / all, head = index % all;
        size_t at = (size_t(row) * all + head) * dim;
        uint32_t k_head = head - heads.query, v_head = k_head - heads.kv;
        if (head < heads.query + heads.kv) {
            bool query = head < heads.query;
            Arrived<T> dy = query ? Arrived<T>(dq, size_t(row) * heads.query + head, dim, 1)
                                  : Arrived<T>(dk, size_t(row) * heads.kv + k_head, dim, split);
            const T *weight = static_cast<const T *>(query ? rope.q_norm : rope.k_norm);
            backward_head<T, W>(dqkv + at, query ? q_own : k_own, dy, qkv + at, weight, Angles(rope, row), dim,
                                static_cast<float>(rope.eps));
            continue;
        }
        Arrived<T> dy(dv, size_t(row) * heads.kv + v_head, dim, split);
        for (uint32_t i = first; i < half; i += WARP * W) {
            dy.read(pair, i, half);
            pair.write(dqkv + at + i, half);
        }
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < 2 * dim; i += blockDim.x) {
        float *parts = i < dim ? q_parts : k_parts;
        const float *own = sums + (i < dim ? 0 : warps * dim) + i % dim;
        float sum = 0;
        for (uint32_t w = 0; w < warps; w++) sum += own[w * dim];
        if (parts) parts[size_t(blockIdx.x) * dim + i % dim] = sum;
    }
}

/// Warps of a block of the backward, whose sums fit; 0 when there are none.
uint32_t backward_warps(uint32_t dim) {
    uint32_t warps = WARPS;
    while (2 * warps * dim * sizeof(float) > SHARED_BYTES) warps /= 2;
    return warps;
}

bool is_empty(const engine_rope &rope) { return rope.n == 0 || row_width(rope.heads) == 0; }

engine_status check_heads(const engine_rope &rope) {
    if (rope.heads.dim % 2 == 0 && backward_warps(rope.heads.dim) > 0) return ENGINE_OK;
    return fail(ENGINE_BAD_ARGUMENT, "heads of %u elements: it takes an even number, at most %zu", rope.heads.dim,
                SHARED_BYTES / sizeof(float) / 2);
}

} // namespace

engine_status rope_forward(void *q, void *k, void *v, const void *qkv, const engine_rope *rope, engine_dtype dtype,
                           engine_stream stream) {
    if (is_empty(*rope)) return ENGINE_OK;
    if (engine_status status = check_heads(*rope); status != ENGINE_OK) return status;
    uint64_t heads = uint64_t(rope->n) * (rope->heads.query + 2 * rope->heads.kv);
    auto pointers = {(const void *)q, (const void *)k, (const void *)v, qkv, rope->q_norm, rope->k_norm, rope->cos,
                     rope->sin};
    return with_access(dtype, rope->heads.dim / 2, pointers, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((rope_forward_kernel<T, W>), ceil_div(heads, ROWS), ROWS * WARP, 0, stream, static_cast<T *>(q),
                      static_cast<T *>(k), static_cast<T *>(v), static_cast<const T *>(qkv), *rope);
    });
}

engine_status rope_backward(void *dqkv, void *q_parts, void *k_parts, const void *dq, const void *dk, const void *dv,
                            const void *qkv, const engine_rope *rope, uint32_t split, uint32_t rows, engine_dtype dtype,
                            engine_stream stream) {
    if (is_empty(*rope)) return ENGINE_OK;
    if (engine_status status = check_heads(*rope); status != ENGINE_OK) return status;
    uint32_t dim = rope->heads.dim, warps = backward_warps(dim);
    auto pointers = {(const void *)dqkv, dq, dk, dv, qkv, rope->q_norm, rope->k_norm, rope->cos, rope->sin};
    return with_access(dtype, dim / 2, pointers, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((rope_backward_kernel<T, W>), ceil_div(rope->n, rows), warps * WARP, 2 * warps * dim * sizeof(float),
                      stream, static_cast<T *>(dqkv), static_cast<float *>(q_parts), static_cast<float *>(k_parts),
                      static_cast<const T *>(dq), dk, dv, static_cast<const T *>(qkv), *rope, split, rows);
    });
}

} // namespace ENGINE_NAMESPACE
