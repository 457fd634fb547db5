// One source, two compilers: what nvcc knows by itself and the host's compiler gets from the emulator.
//
//   SHARED(float, partial, 32);            a static __shared__ array
//   DYNAMIC_SHARED(float, tile, bytes);    the block's dynamic shared memory: at most `bytes`, a constant
//   DYNAMIC_SHARED_REST(type, name, own);  the same: all that the chip has for a block, but `own` bytes
//   LAUNCH((kernel<T>), grid, block, shared_bytes, stream, arguments...)   an engine_status
#pragma once

#include "status.h"

#ifdef __CUDACC__

#include <atomic>
#include <type_traits>

#include <cuda_runtime.h>

#define SHARED(type, name, count) __shared__ type name[count]
// The comment is left in the PTX, where tests/resources finds how much an instance takes; the emulator holds it against
// what is launched.
#define DYNAMIC_SHARED(type, name, bytes)                                  \
    extern __shared__ __align__(16) unsigned char engine_dynamic_shared[]; \
    asm volatile("// dynamic_shared %0" : : "n"(static_cast<int>(bytes))); \
    type *name = reinterpret_cast<type *>(engine_dynamic_shared)
#define DYNAMIC_SHARED_REST(type, name, own)                               \
    extern __shared__ __align__(16) unsigned char engine_dynamic_shared[]; \
    asm volatile("// dynamic_shared_rest %0" : : "n"(static_cast<int>(own))); \
    type *name = reinterpret_cast<type *>(engine_dynamic_shared)
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ENGINE_NAMESPACE::launch_kernel(#kernel, (kernel), (grid), (block), (shared_bytes), (stream), __VA_ARGS__)

namespace ENGINE_NAMESPACE {

/// Bytes of shared memory that a block of this device gets if its kernel asks; 0 where the driver does not say.
inline size_t most_shared_memory() {
    int device = 0, most = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return static_cast<size_t>(most);
}

/// A block gets more than 48 KB of shared memory, static and dynamic, only if its kernel asks; false, with a message, when refused.
/// `bytes`: dynamic ones; no kernel here has more than 1 KB of static ones beside them.
template <class Kernel> bool allow_shared_memory(const char *name, Kernel kernel, size_t bytes) {
    if (bytes <= 47 * 1024) return true;
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (error == cudaSuccess) return true;
    if (size_t most = most_shared_memory(); most > 0 && bytes > most)
        too_much_shared_memory(name, bytes, most);
    else
        fail(ENGINE_LAUNCH_FAILED, "`%s`: %s", name, cudaGetErrorString(error));
    cudaGetLastError(); // or the next launch would be blamed
    return false;
}

/// See `engine_kernels::allow_programmatic_launch`.
inline std::atomic<bool> programmatic_launch_is_allowed = true;

/// Whether a kernel is launched so: only if the code that this device has of it waits for earlier kernels, which is that made for 9.0.
/// Others may have been made of older PTX, whatever the chip.
template <class Kernel> bool launches_programmatically(Kernel kernel) {
    if (!programmatic_launch_is_allowed) return false;
    cudaFuncAttributes code{};
    if (cudaFuncGetAttributes(&code, kernel) == cudaSuccess) return code.ptxVersion >= 90;
    cudaGetLastError(); // the launch will say what is wrong
    return false;
}

template <class... Parameters>
engine_status launch_kernel(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                            engine_stream stream, std::type_identity_t<Parameters>... arguments) {
    if (!allow_shared_memory(name, kernel, shared_bytes)) return ENGINE_LAUNCH_FAILED;
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &early, config.numAttrs = launches_programmatically(kernel) ? 1 : 0;
    cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
    if (error == cudaSuccess) return ENGINE_OK;
    cudaGetLastError(); // or the next launch would be blamed
    return fail(ENGINE_LAUNCH_FAILED, "`%s`: %s", name, cudaGetErrorString(error));
}

} // namespace ENGINE_NAMESPACE

#else

#include "emulator/emulator.h"

namespace ENGINE_NAMESPACE {
inline size_t most_shared_memory() { return emulator::most_shared_memory(); }
} // namespace ENGINE_NAMESPACE

#endif

namespace ENGINE_NAMESPACE {

constexpr uint32_t WARP = 32;

/// Whether kernels of this code may begin before those before them have ended.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool BEGINS_EARLY = false;
#else
constexpr bool BEGINS_EARLY = true;
#endif

/// Waits until the kernels before this one in its stream have ended and memory is as they left it. From then on the next kernel's blocks
/// may take the room that this one's leave, and wait here for its end: a launch costs less (programmatic dependent launch).
///
/// Every thread of a kernel calls it before it touches global memory, and the emulator has a fault for one that does not. Before it
/// there is room for what needs nobody's results.
__device__ inline void wait_for_earlier_kernels() {
#ifndef __CUDACC__
    emulator::wait_for_earlier_kernels();
#elif __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" : : : "memory");
    asm volatile("griddepcontrol.launch_dependents;" : : : "memory");
#endif
}

/// Asks for the line of memory at an address, for the L2 cache. It may come before earlier kernels are done: the cache is one for all.
__device__ inline void prefetch_l2([[maybe_unused]] const void *address) {
#ifdef __CUDACC__
    asm volatile("prefetch.global.L2 [%0];" : : "l"(address));
#endif
}

/// The interval that holds `at`: the last of those that begin at or before it. starts (intervals + 1) ascend from 0.
template <class T> __device__ inline uint32_t interval_of(const T *starts, uint32_t intervals, T at) {
    uint32_t low = 0, high = intervals;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        (starts[middle] <= at ? low : high) = middle;
    }
    return low;
}

inline uint32_t ceil_div(uint64_t a, uint64_t b) { return static_cast<uint32_t>((a + b - 1) / b); }

} // namespace ENGINE_NAMESPACE
