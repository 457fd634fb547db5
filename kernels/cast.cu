// cast: to = from in another type
//
// Shapes    to (n) of to_dtype     from (n) of from_dtype
// Numerics  to bf16: round to nearest, ties to even; to f32: exact
// Order     elementwise
// Cost      n * (both element sizes) bytes: memory bound. The last elements of an odd n go one by one
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 256;

template <class To, class From, uint32_t W>
__global__ void __launch_bounds__(THREADS) cast_kernel(To *to, const From *from, uint64_t n) {
    wait_for_earlier_kernels();
    uint64_t i = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * W;
    if (i + W <= n) {
        float values[W];
        load(values, from + i);
        store(to + i, values);
        return;
    }
    for (; i < n; i++) to[i] = from_float<To>(to_float(from[i]));
}

template <class To> engine_status cast_to(To *to, const void *from, uint64_t n, engine_dtype from_dtype, engine_stream stream) {
    // A row of 8 elements fills whole vectors: what is left after the last row the kernel does one by one.
    return with_access(from_dtype, 8, {to, from}, [&](auto access) {
        using From = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((cast_kernel<To, From, W>), ceil_div(n, THREADS * W), THREADS, 0, stream, to,
                      static_cast<const From *>(from), n);
    });
}

} // namespace

engine_status cast(void *to, const void *from, uint64_t n, engine_dtype to_dtype, engine_dtype from_dtype, engine_stream stream) {
    if (n == 0) return ENGINE_OK;
    switch (to_dtype) {
    case ENGINE_F32: return cast_to(static_cast<float *>(to), from, n, from_dtype, stream);
    case ENGINE_BF16: return cast_to(static_cast<bf16 *>(to), from, n, from_dtype, stream);
    default: return no_dtype(to_dtype);
    }
}

} // namespace ENGINE_NAMESPACE
