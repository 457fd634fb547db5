// emulator: runs CUDA kernels on the host, and is stricter than a GPU.
//
// The threads of a block are fibers on one OS thread; barriers, shuffles and votes are where they meet. Blocks and
// fibers run in a seeded shuffled order. Shared memory starts as NaN. An asynchronous copy moves its bytes at its
// wait, no earlier. Every launch fails, with a sentence about the first fault, when
//   - threads wait at different barriers, or some of them never arrive;
//   - two threads touch the same memory with nothing that orders them, and one of them writes (memory.cpp);
//   - a thread reads or writes the guard bands around an array;
//   - a thread ends with a copy that it never waited for;
//   - a thread touches global memory before it waits for the kernels before this one, which may still be running;
//   - the launch gives more dynamic shared memory than the kernel declares, or than a block has on the smallest chip.
//
// Kernels include this through platform.cuh. One difference to CUDA: SHARED(type, name, count) in place of __shared__.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <source_location>
#include <tuple>
#include <type_traits>

#include "../status.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#define SHARED(type, name, count)                                                                           \
    type(&name)[count] = *static_cast<type(*)[count]>(                                                      \
        ::emulator::shared_array(::emulator::site_of([] {}), sizeof(type) * (count)))
#define DYNAMIC_SHARED(type, name, bytes) type *name = static_cast<type *>(::emulator::dynamic_shared(bytes))
#define DYNAMIC_SHARED_REST(type, name, own) DYNAMIC_SHARED(type, name, ::emulator::most_shared_memory() - (own))
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ::emulator::launch(#kernel, kernel, (grid), (block), (shared_bytes), (stream), __VA_ARGS__)

struct dim3 {
    uint32_t x, y, z;
    constexpr dim3(uint32_t x = 1, uint32_t y = 1, uint32_t z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

using Site = std::source_location;

/// Where the running fiber is in the grid; null outside of a launch.
struct Place {
    dim3 thread, block, block_size, grid_size;
    uint32_t index; // of the thread in its block
    bool has_waited = false; // for the kernels before this one
};
extern __thread const Place *here;

/// An address that is one per source line and template instance, because every lambda has a type of its own.
template <class Lambda> const void *site_of(Lambda) {
    static const char site = 0;
    return &site;
}
void *shared_array(const void *site, size_t bytes);
/// What a block has of it.
size_t most_shared_memory();
/// The kernel says how much it has at most; more at its launch is a fault.
void *dynamic_shared(size_t bytes);

void block_barrier(const Site &site);

/// The running fiber may touch global memory from here on.
void wait_for_earlier_kernels();

constexpr size_t SLOT_BYTES = 64;
/// Meets the other 31 lanes. True for the last to arrive, who must do the warp's work on the slots and release it;
/// the others return once that is done.
bool warp_arrive(const Site &site);
void warp_release();
/// What each lane of the warp hands in and gets back at a meeting.
struct alignas(SLOT_BYTES) Slot {
    std::byte bytes[SLOT_BYTES];
};
Slot *warp_slots();
/// Lanes that are missing from `mask` are a fault: nothing here needs them.
void require_full_mask(uint32_t mask, const Site &site);

/// Queues a copy in the open group; commits the group; completes all but the newest `pending` groups.
void copy_async(void *to, const void *from, size_t bytes);
void copy_commit();
void copy_wait(uint32_t pending);

/// Shows what the thread's accesses so far come after to whoever finds its next count; and what it has found shown (memory.cpp).
void fence();
/// Adds 1 to a number in global memory, from `most` on sets it to 0; what it was. Plain accesses to it are not held against that.
uint32_t count(uint32_t *counter, uint32_t most);

/// Reports a vector access at an address that is not a multiple of its size.
void check_alignment(const void *address, size_t alignment);

/// What a thread of a grid does, and the grid.
struct Launch {
    const char *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    void (*thread)(const void *call);
    size_t call_bytes; // of what `thread` is given: the arguments
};

engine_status run_launch(const Launch &launch, const void *call);
/// Whether this OS thread's launches are kept for a graph (graph.cpp) in place of running.
bool capturing();
/// Keeps a launch until its graph is freed by `drop(call)`.
engine_status capture_launch(const Launch &launch, void *call, void (*drop)(void *call));

/// A kernel and copies of its arguments, as CUDA makes them.
template <class... Parameters> struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;

    static void run(const void *call) {
        auto *self = static_cast<const Call *>(call);
        std::apply(self->kernel, self->arguments);
    }
    static void drop(void *call) { delete static_cast<Call *>(call); }
};

template <class... Parameters>
engine_status launch(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                     engine_stream, std::type_identity_t<Parameters>... arguments) {
    using Kept = Call<Parameters...>;
    Launch launch{name, grid, block, shared_bytes, Kept::run, sizeof(Kept)};
    if (capturing()) {
        // Zeros first: whoever reads the words of the arguments is not to find old addresses in what lies between them.
        void *place = std::memset(::operator new(sizeof(Kept)), 0, sizeof(Kept));
        return capture_launch(launch, new (place) Kept{kernel, {arguments...}}, Kept::drop);
    }
    Kept call{kernel, {arguments...}};
    return run_launch(launch, &call);
}

/// A warp-wide operation: `work` turns what the 32 lanes handed in into what each gets back. It is the emulator's own:
/// its accesses are not checked.
template <class Out, class In, class Work>
[[gnu::no_sanitize("thread")]] Out warp_meet(const In &in, const Site &site, const Work &work) {
    static_assert(sizeof(In) <= SLOT_BYTES && sizeof(Out) <= SLOT_BYTES);
    static_assert(std::is_trivially_copyable_v<In> && std::is_trivially_copyable_v<Out>);
    uint32_t self = here->index % 32;
    Slot *slots = warp_slots();
    std::memcpy(&slots[self], &in, sizeof in);
    if (warp_arrive(site)) {
        In ins[32];
        Out outs[32];
        for (uint32_t lane = 0; lane < 32; lane++) std::memcpy(&ins[lane], &slots[lane], sizeof in);
        work(ins, outs);
        for (uint32_t lane = 0; lane < 32; lane++) std::memcpy(&slots[lane], &outs[lane], sizeof(Out));
        warp_release();
    }
    Out out;
    std::memcpy(&out, &slots[self], sizeof out);
    return out;
}

} // namespace emulator

#define threadIdx (::emulator::here->thread)
#define blockIdx (::emulator::here->block)
#define blockDim (::emulator::here->block_size)
#define gridDim (::emulator::here->grid_size)

inline void __syncthreads(const emulator::Site &site = emulator::Site::current()) { emulator::block_barrier(site); }

inline void __threadfence() { emulator::fence(); }
inline uint32_t atomicInc(uint32_t *counter, uint32_t most) { return emulator::count(counter, most); }

inline void __syncwarp(uint32_t mask = ~0u, const emulator::Site &site = emulator::Site::current()) {
    emulator::require_full_mask(mask, site);
    emulator::warp_meet<char>(char(0), site, [](const char *, char *outs) { std::memset(outs, 0, 32); });
}

/// Each lane gets what lane `source(lane)` handed in; itself where that is no lane.
template <class T, class Source>
T emulated_shuffle(uint32_t mask, T value, const emulator::Site &site, const Source &source) {
    emulator::require_full_mask(mask, site);
    struct Input {
        T value;
        uint32_t source;
    };
    uint32_t lane = emulator::here->index % 32;
    return emulator::warp_meet<T>(Input{value, source(lane)}, site, [](const Input *ins, T *outs) {
        for (uint32_t i = 0; i < 32; i++) outs[i] = ins[ins[i].source < 32 ? ins[i].source : i].value;
    });
}

template <class T>
T __shfl_sync(uint32_t mask, T value, uint32_t source, const emulator::Site &site = emulator::Site::current()) {
    return emulated_shuffle(mask, value, site, [=](uint32_t) { return source % 32; });
}

template <class T>
T __shfl_xor_sync(uint32_t mask, T value, uint32_t bits, const emulator::Site &site = emulator::Site::current()) {
    return emulated_shuffle(mask, value, site, [=](uint32_t lane) { return lane ^ bits; });
}

template <class T>
T __shfl_down_sync(uint32_t mask, T value, uint32_t delta, const emulator::Site &site = emulator::Site::current()) {
    return emulated_shuffle(mask, value, site, [=](uint32_t lane) { return lane + delta; });
}

template <class T>
T __shfl_up_sync(uint32_t mask, T value, uint32_t delta, const emulator::Site &site = emulator::Site::current()) {
    return emulated_shuffle(mask, value, site, [=](uint32_t lane) { return lane - delta; });
}

inline uint32_t __ballot_sync(uint32_t mask, bool vote, const emulator::Site &site = emulator::Site::current()) {
    emulator::require_full_mask(mask, site);
    return emulator::warp_meet<uint32_t>(vote, site, [](const bool *ins, uint32_t *outs) {
        uint32_t votes = 0;
        for (uint32_t i = 0; i < 32; i++) votes |= uint32_t(ins[i]) << i;
        for (uint32_t i = 0; i < 32; i++) outs[i] = votes;
    });
}

inline bool __any_sync(uint32_t mask, bool vote, const emulator::Site &site = emulator::Site::current()) {
    return __ballot_sync(mask, vote, site) != 0;
}

inline bool __all_sync(uint32_t mask, bool vote, const emulator::Site &site = emulator::Site::current()) {
    return __ballot_sync(mask, vote, site) == ~0u;
}

using std::isfinite;
using std::isnan;
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
