// One source, two compilers: what nvcc knows by itself and the host's compiler gets from the emulator.
//
//   SHARED(float, partial, 32);            a static __shared__ array
//   DYNAMIC_SHARED(float, tile, bytes);    the block's dynamic shared memory: at most `bytes`, a constant
//   LAUNCH((kernel<T>), grid, block, shared_bytes, stream, arguments...)   an engine_status
#pragma once

#include "status.h"

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define SHARED(type, name, count) __shared__ type name[count]
// The comment is left in the PTX, where tests/resources finds how much an instance takes; the emulator holds it against
// what is launched.
#define DYNAMIC_SHARED(type, name, bytes)                                  \
    extern __shared__ __align__(16) unsigned char engine_dynamic_shared[]; \
    asm volatile("// dynamic_shared %0" : : "n"(static_cast<int>(bytes))); \
    type *name = reinterpret_cast<type *>(engine_dynamic_shared)
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                             \
    (ENGINE_NAMESPACE::allow_shared_memory((kernel), (shared_bytes)),                                      \
     kernel<<<(grid), (block), (shared_bytes), static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__),          \
     ENGINE_NAMESPACE::check_launch(#kernel))

namespace ENGINE_NAMESPACE {

/// A block gets more than 48 KB of dynamic shared memory only if its kernel asks. A refusal is check_launch's to tell.
template <class Kernel> void allow_shared_memory(Kernel kernel, size_t bytes) {
    if (bytes <= 48 * 1024) return;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

inline engine_status check_launch(const char *kernel) {
    cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess) return ENGINE_OK;
    return fail(ENGINE_LAUNCH_FAILED, "`%s`: %s", kernel, cudaGetErrorString(error));
}

} // namespace ENGINE_NAMESPACE

#else

#include "emulator/emulator.h"

#endif

namespace ENGINE_NAMESPACE {

constexpr uint32_t WARP = 32;

inline uint32_t ceil_div(uint64_t a, uint64_t b) { return static_cast<uint32_t>((a + b - 1) / b); }

} // namespace ENGINE_NAMESPACE
