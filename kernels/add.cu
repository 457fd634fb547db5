// add: sum += term, for a gradient that arrives from a second place
//
// Shapes    sum, term (n) T
// Numerics  added in f32, one rounding at the store
// Order     elementwise
// Cost      3 * n * sizeof(T) bytes: memory bound. The last elements of an odd n go one by one
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 256;

template <class T, uint32_t W> __global__ void __launch_bounds__(THREADS) add_kernel(T *sum, const T *term, uint64_t n) {
    wait_for_earlier_kernels();
    uint64_t i = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * W;
    if (i + W <= n) {
        float a[W], b[W];
        load(a, sum + i);
        load(b, term + i);
        for (uint32_t j = 0; j < W; j++) a[j] += b[j];
        store(sum + i, a);
        return;
    }
    for (; i < n; i++) sum[i] = from_float<T>(to_float(sum[i]) + to_float(term[i]));
}

} // namespace

engine_status add(void *sum, const void *term, uint64_t n, engine_dtype dtype, engine_stream stream) {
    if (n == 0) return ENGINE_OK;
    // A row of 8 elements fills whole vectors: what is left after the last row the kernel does one by one.
    return with_access(dtype, 8, {sum, term}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((add_kernel<T, W>), ceil_div(n, THREADS * W), THREADS, 0, stream, static_cast<T *>(sum),
                      static_cast<const T *>(term), n);
    });
}

} // namespace ENGINE_NAMESPACE
