// The emulator's scheduler: blocks one after the other, the threads of a block as fibers that meet at barriers.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <numeric>
#include <sys/mman.h>
#include <vector>

#include "internal.h"
#include "switch.h"

namespace emulator {

__thread const Place *here = nullptr;
__thread uintptr_t stack_begin = 0;
constinit thread_local Moment now;

namespace {

constexpr uint64_t STACK_CANARY = 0x5afe57acc5afe57a;

struct Copy {
    void *to;
    const void *from;
    size_t bytes;
};

enum class State { Ready, AtBarrier, AtWarp, Done };

struct Fiber {
    Context context;
    Place place;
    State state = State::Ready;
    std::vector<Copy> open;                 // the group that is not committed yet
    std::vector<std::vector<Copy>> pending; // committed groups, oldest first
};

/// A place where threads wait for one another, and the source line of those that wait already.
struct Meeting {
    uint32_t arrived = 0;
    Site site;
};

struct Warp {
    Meeting meeting;
    uint32_t meetings = 0;
    Slot slots[32];
};

struct Stacks {
    std::byte *memory = nullptr;
    size_t count = 0;

    void reserve(size_t wanted) {
        if (wanted <= count) return;
        release();
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void *fresh = mmap(nullptr, wanted * STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (fresh == MAP_FAILED) throw std::bad_alloc();
        memory = static_cast<std::byte *>(fresh);
        count = wanted;
        for (size_t i = 0; i < count; i++) mark(i);
    }
    /// What lies at a stack's end unless it overflowed.
    void mark(size_t i) const { std::memcpy((*this)[i], &STACK_CANARY, sizeof STACK_CANARY); }
    bool is_marked(size_t i) const { return std::memcmp((*this)[i], &STACK_CANARY, sizeof STACK_CANARY) == 0; }
    std::byte *operator[](size_t i) const { return memory + i * STACK_BYTES; }
    void release() {
        if (memory) munmap(memory, count * STACK_BYTES);
    }
    ~Stacks() { release(); }
};

struct Random {
    uint64_t state;

    uint32_t below(uint32_t n) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return static_cast<uint32_t>((state >> 32) * n >> 32);
    }
    void shuffle(std::vector<uint32_t> &items) {
        for (uint32_t i = static_cast<uint32_t>(items.size()); i > 1; i--) std::swap(items[i - 1], items[below(i)]);
    }
};

/// A launch in progress.
struct Run {
    void (*thread)(const void *);
    const void *call;
    uint32_t block_id = 0;
    Context scheduler;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<uint32_t> order; // of the fibers in this round
    size_t turn = 0;             // whose it is
    bool progress = true;        // somebody ran in this round
    Fiber *current = nullptr;
    Meeting barrier;
    uint32_t barriers = 0;
    uint32_t done = 0;
    std::vector<std::pair<const void *, void *>> shared;
    void *dynamic = nullptr;
    size_t dynamic_bytes = 0;
    bool stuck = false; // a fault after which the block cannot go on
    engine_status status = ENGINE_OK;
    char message[400] = "";

    Warp &warp() { return warps[current->place.index / 32]; }
};

thread_local Run *run = nullptr;
thread_local Stacks stacks;
thread_local Random random_numbers{0x9e3779b97f4a7c15};
thread_local uint32_t blocks_run = 0;

void report_stuck();

/// The next that can run, in the order of the round; when all had their turn, in a new one. Null: the block is done, or stuck.
Fiber *next_fiber() {
    while (!run->stuck) {
        while (run->turn < run->order.size()) {
            Fiber &fiber = run->fibers[run->order[run->turn++]];
            if (fiber.state != State::Ready) continue;
            run->progress = true;
            return &fiber;
        }
        if (run->done == run->fibers.size()) return nullptr;
        if (!run->progress) {
            report_stuck();
            return nullptr;
        }
        random_numbers.shuffle(run->order);
        run->turn = 0, run->progress = false;
    }
    return nullptr;
}

/// From one fiber straight to the next, and from the last one back to the scheduler.
void go_on(Context &from) {
    Fiber *next = next_fiber();
    if (!next) {
        here = nullptr;
        return Context::change(from, run->scheduler);
    }
    uint32_t i = next->place.index;
    run->current = next;
    here = &next->place;
    stack_begin = reinterpret_cast<uintptr_t>(stacks[i]);
    now = {run->block_id, run->barriers, run->warps[i / 32].meetings, i};
    if (&from != &next->context) Context::change(from, next->context);
}

/// The others go on, until it is this fiber's turn again.
void yield(State state) {
    Fiber &self = *run->current;
    self.state = state;
    go_on(self.context);
}

[[noreturn]] void abandon() {
    run->stuck = true;
    for (;;) yield(State::Done);
}

void fiber_main() {
    run->thread(run->call);
    Fiber &self = *run->current;
    if (!self.open.empty() || !self.pending.empty())
        fault(ENGINE_MISSING_WAIT, "thread %u ended with an asynchronous copy that it never waited for",
              self.place.index);
    run->done++;
    for (;;) yield(State::Done);
}

/// Notes an arrival; a fault when the others wait at another line.
void arrive(Meeting &meeting, const Site &site) {
    if (meeting.arrived++ == 0) meeting.site = site;
    const Site &other = meeting.site;
    bool same_file = other.file_name() == site.file_name() || std::strcmp(other.file_name(), site.file_name()) == 0;
    if (other.line() == site.line() && same_file) return;
    fault(ENGINE_DIVERGENT_BARRIER, "thread %u waits at %s:%u while another waits at %s:%u",
          run->current->place.index, site.file_name(), site.line(), other.file_name(), other.line());
    abandon();
}

void report_stuck() {
    auto waiting = std::find_if(run->fibers.begin(), run->fibers.end(),
                                [](const Fiber &fiber) { return fiber.state != State::Done; });
    uint32_t index = waiting->place.index;
    const Site &site = waiting->state == State::AtWarp ? run->warps[index / 32].meeting.site : run->barrier.site;
    fault(ENGINE_DIVERGENT_BARRIER, "thread %u waits at %s:%u for threads that never arrive (%u have ended)", index,
          site.file_name(), site.line(), run->done);
    run->stuck = true;
}

dim3 unflatten(uint32_t i, dim3 size) { return dim3(i % size.x, i / size.x % size.y, i / size.x / size.y); }

void run_block(dim3 block, dim3 grid_size, dim3 block_size, size_t dynamic_bytes) {
    run->block_id = ++blocks_run;
    run->barrier = {};
    run->barriers = run->done = 0;
    run->shared.clear();
    shared_reset();
    run->dynamic = shared_take(dynamic_bytes);
    run->dynamic_bytes = dynamic_bytes;
    for (Warp &warp : run->warps) warp.meeting = {}, warp.meetings = 0;
    for (uint32_t i = 0; i < run->fibers.size(); i++) {
        Fiber &fiber = run->fibers[i];
        fiber.place = {unflatten(i, block_size), block, block_size, grid_size, i};
        fiber.state = State::Ready;
        fiber.open.clear();
        fiber.pending.clear();
        fiber.context.prepare(stacks[i], STACK_BYTES, fiber_main);
    }
    run->turn = run->order.size(), run->progress = true;
    go_on(run->scheduler);
    shared_check_guards();
}

void copy_now(const std::vector<Copy> &group) {
    for (const Copy &copy : group) {
        memory_access(copy.from, copy.bytes, false);
        memory_access(copy.to, copy.bytes, true);
        std::memcpy(copy.to, copy.from, copy.bytes);
    }
}

} // namespace

void fault(engine_status status, const char *format, ...) {
    if (!run || run->status != ENGINE_OK) return;
    run->status = status;
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(run->message, sizeof run->message, format, arguments);
    va_end(arguments);
}

void *shared_array(const void *site, size_t bytes) {
    for (auto &[known, array] : run->shared)
        if (known == site) return array;
    void *array = shared_take(bytes);
    if (!array) {
        fault(ENGINE_BAD_ARGUMENT, "more shared memory than a block has");
        abandon();
    }
    run->shared.emplace_back(site, array);
    return array;
}

size_t most_shared_memory() { return shared_bytes; }

void *dynamic_shared(size_t bytes) {
    if (run->dynamic_bytes > bytes) {
        fault(ENGINE_BAD_ARGUMENT, "launched with %zu bytes of dynamic shared memory; the kernel declares %zu",
              run->dynamic_bytes, bytes);
        abandon();
    }
    return run->dynamic;
}

void block_barrier(const Site &site) {
    arrive(run->barrier, site);
    if (run->barrier.arrived < run->fibers.size()) return yield(State::AtBarrier);
    run->barrier.arrived = 0;
    run->barriers++;
    for (Fiber &fiber : run->fibers) fiber.state = State::Ready;
    yield(State::Ready);
}

bool warp_arrive(const Site &site) {
    Meeting &meeting = run->warp().meeting;
    arrive(meeting, site);
    if (meeting.arrived == 32) return true;
    yield(State::AtWarp);
    return false;
}

void warp_release() {
    Warp &warp = run->warp();
    warp.meeting.arrived = 0;
    warp.meetings++;
    Fiber *first = &run->fibers[run->current->place.index / 32 * 32];
    for (Fiber *fiber = first; fiber < first + 32; fiber++) fiber->state = State::Ready;
    yield(State::Ready);
}

Slot *warp_slots() { return run->warp().slots; }

void require_full_mask(uint32_t mask, const Site &site) {
    if (mask == ~0u) return;
    fault(ENGINE_DIVERGENT_BARRIER, "%s:%u: mask %08x leaves lanes out", site.file_name(), site.line(), mask);
    abandon();
}

void wait_for_earlier_kernels() { run->current->place.has_waited = true; }

void copy_async(void *to, const void *from, size_t bytes) {
    Fiber &self = *run->current;
    if (!self.place.has_waited)
        fault(ENGINE_MISSING_WAIT, "thread %u begins a copy before it waits for earlier kernels", self.place.index);
    self.open.push_back({to, from, bytes});
}

void copy_commit() {
    Fiber &self = *run->current;
    self.pending.push_back(std::move(self.open));
    self.open.clear();
}

void copy_wait(uint32_t pending) {
    auto &groups = run->current->pending;
    while (groups.size() > pending) {
        copy_now(groups.front());
        groups.erase(groups.begin());
    }
}

void check_alignment(const void *address, size_t alignment) {
    if (reinterpret_cast<uintptr_t>(address) % alignment != 0)
        fault(ENGINE_OUT_OF_BOUNDS, "a %zu-byte access at an address that is not a multiple of it", alignment);
}

engine_status check_launch(const Launch &launch) {
    dim3 grid = launch.grid, block = launch.block;
    uint32_t threads = block.x * block.y * block.z;
    uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    if (threads == 0 || threads > 1024 || threads % 32 != 0)
        return ENGINE_NAMESPACE::fail(ENGINE_BAD_ARGUMENT, "`%s`: a block of %u threads", launch.kernel, threads);
    if (blocks == 0 || blocks > UINT32_MAX || grid.y > 65535 || grid.z > 65535)
        return ENGINE_NAMESPACE::fail(ENGINE_BAD_ARGUMENT, "`%s`: a grid of (%u, %u, %u)", launch.kernel, grid.x, grid.y,
                                      grid.z);
    if (launch.shared_bytes > shared_bytes)
        return ENGINE_NAMESPACE::too_much_shared_memory(launch.kernel, launch.shared_bytes, shared_bytes);
    return ENGINE_OK;
}

engine_status run_launch(const Launch &launch, const void *call) {
    if (engine_status status = check_launch(launch); status != ENGINE_OK) return status;
    dim3 grid = launch.grid, block = launch.block;
    uint32_t threads = block.x * block.y * block.z;
    auto owned = std::make_unique<Run>();
    run = owned.get();
    run->thread = launch.thread, run->call = call;
    run->fibers.resize(threads);
    run->warps.resize(threads / 32);
    run->order.resize(threads);
    std::iota(run->order.begin(), run->order.end(), 0);
    stacks.reserve(threads);
    memory_begin_launch(blocks_run + 1);
    std::vector<uint32_t> order(grid.x * grid.y * grid.z);
    std::iota(order.begin(), order.end(), 0);
    random_numbers.shuffle(order);
    for (uint32_t i : order) {
        run_block(unflatten(i, grid), grid, block, launch.shared_bytes);
        if (run->stuck) break;
    }
    for (uint32_t i = 0; i < threads; i++) {
        if (stacks.is_marked(i)) continue;
        fault(ENGINE_OUT_OF_BOUNDS, "the stack of thread %u overflowed", i);
        stacks.mark(i);
    }
    buffers_check_guards();
    run = nullptr;
    if (owned->status == ENGINE_OK) return ENGINE_OK;
    return ENGINE_NAMESPACE::fail(owned->status, "`%s`: %s", launch.kernel, owned->message);
}

} // namespace emulator

extern "C" void engine_emulator_seed(uint64_t seed) {
    // Xorshift stays at 0 for ever, and neighbouring seeds should not give neighbouring orders.
    emulator::random_numbers.state = (seed + 1) * 0x9e3779b97f4a7c15 | 1;
}
