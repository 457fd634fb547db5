// Switching stacks: some ten instructions where the processor is known, ucontext elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__) && defined(__x86_64__) && !defined(ENGINE_EMULATOR_UCONTEXT)

// Saves what a call must preserve on the stack, the stack's top to *save, and goes on from where `load` was saved.
extern "C" void engine_emulator_switch(void **save, void *load);
asm(R"(
.text
.p2align 4
.globl engine_emulator_switch
.type engine_emulator_switch, @function
engine_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size engine_emulator_switch, .-engine_emulator_switch
)");

namespace emulator {

struct Context {
    void *top = nullptr;

    /// Will call `entry` on this stack; `entry` never returns.
    void prepare(void *stack, size_t bytes, void (*entry)()) {
        uintptr_t end = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15);
        void **words = reinterpret_cast<void **>(end) - 8;
        for (int i = 0; i < 8; i++) words[i] = nullptr;
        words[6] = reinterpret_cast<void *>(entry); // above six saved registers; words[7] stands for a return address
        top = words;
    }

    static void change(Context &from, Context &to) { engine_emulator_switch(&from.top, to.top); }
};

} // namespace emulator

#else

#include <ucontext.h>

namespace emulator {

struct Context {
    ucontext_t context;

    void prepare(void *stack, size_t bytes, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = bytes;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }

    static void change(Context &from, Context &to) { swapcontext(&from.context, &to.context); }
};

} // namespace emulator

#endif
