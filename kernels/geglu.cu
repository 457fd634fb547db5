// geglu: y = gelu(gate) * up,  gelu(g) = g/2 * (1 + tanh(c * (g + a g^3))),  c = sqrt(2/pi), a = 0.044715
//
// Shapes    x = [gate, up], dx (N, 2F) T     y, dy (N, F) T
// Saved     x
// Backward  dgate = dy * up * gelu'(gate);  dup = dy * gelu(gate)
//           gelu'(g) = (1 + t)/2 + g/2 * (1 - t^2) * c * (1 + 3 a g^2),  t = tanh(..)
// Numerics  f32 inside, one rounding at the store
// Order     elementwise
// Cost      forward 3 * N * F * sizeof(T) bytes, backward 5: memory bound
#include "geglu.cuh"
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 256;

template <class T, uint32_t W>
__global__ void __launch_bounds__(THREADS) geglu_forward_kernel(T *y, const T *x, uint64_t elements, uint32_t f) {
    wait_for_earlier_kernels();
    uint64_t i = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * W;
    if (i >= elements) return;
    uint64_t row = i / f;
    const T *gates = x + row * f + i; // row * 2F + (i - row * F)
    float gate[W], up[W];
    load(gate, gates);
    load(up, gates + f);
    for (uint32_t j = 0; j < W; j++) gate[j] = gated(gate[j], up[j]);
    store(y + i, gate);
}

template <class T, uint32_t W>
__global__ void __launch_bounds__(THREADS)
    geglu_backward_kernel(T *dx, const T *dy, const T *x, uint64_t elements, uint32_t f) {
    wait_for_earlier_kernels();
    uint64_t i = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * W;
    if (i >= elements) return;
    uint64_t at = i / f * f + i; // of the gate in x
    float gate[W], up[W], slopes[W];
    load(gate, x + at);
    load(up, x + at + f);
    load(slopes, dy + i);
    for (uint32_t j = 0; j < W; j++) gated_backward(gate[j], up[j], slopes[j]);
    store(dx + at, gate);
    store(dx + at + f, up);
}

} // namespace

engine_status geglu_forward(void *y, const void *x, uint32_t n, uint32_t f, engine_dtype dtype, engine_stream stream) {
    uint64_t elements = uint64_t(n) * f;
    if (elements == 0) return ENGINE_OK;
    return with_access(dtype, f, {y, x}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((geglu_forward_kernel<T, W>), ceil_div(elements, THREADS * W), THREADS, 0, stream,
                      static_cast<T *>(y), static_cast<const T *>(x), elements, f);
    });
}

engine_status geglu_backward(void *dx, const void *dy, const void *x, uint32_t n, uint32_t f, engine_dtype dtype,
                             engine_stream stream) {
    uint64_t elements = uint64_t(n) * f;
    if (elements == 0) return ENGINE_OK;
    return with_access(dtype, f, {dx, dy, x}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((geglu_backward_kernel<T, W>), ceil_div(elements, THREADS * W), THREADS, 0, stream,
                      static_cast<T *>(dx), static_cast<const T *>(dy), static_cast<const T *>(x), elements, f);
    });
}

} // namespace ENGINE_NAMESPACE
