#include "kernels/cuda/sim/fiber.h"

#include <sys/mman.h>

#include "kernels/sanitizers.h"

#if defined(KOMPAKT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(KOMPAKT_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

// void kompakt_switch_stack(void** save, void* load): pushes the registers that a call preserves, stores the stack
// pointer in *save, and takes up the stack `load`, which was left the same way.
extern "C" void kompakt_switch_stack(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
.text
.globl kompakt_switch_stack
.type kompakt_switch_stack, @function
kompakt_switch_stack:
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
.size kompakt_switch_stack, . - kompakt_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl kompakt_switch_stack
.type kompakt_switch_stack, %function
kompakt_switch_stack:
  stp x19, x20, [sp, #-160]!
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x19, x20, [sp], #160
  ret
.size kompakt_switch_stack, . - kompakt_switch_stack
)");
#else
#error "the CUDA simulator knows the stacks of x86-64 and aarch64"
#endif

namespace kompakt::cuda_sim {
namespace {

// Untouched pages take no memory. Sanitizers make frames several times larger.
constexpr size_t kStackBytes = kSanitized ? size_t{1} << 20 : size_t{128} << 10;

[[maybe_unused]] constexpr int64_t kStartsPerThreadState = 1024;

// The host thread while one of its fibers runs.
struct Host {
  void* stack_pointer;
  Fiber* running;
  void* fake_stack;
  const void* stack_bottom;
  size_t stack_bytes;
  void* thread_state;
};
thread_local Host host{};

}  // namespace

Fiber::~Fiber() {
#if defined(KOMPAKT_TSAN)
  if (thread_state_ != nullptr) __tsan_destroy_fiber(thread_state_);
#endif
  if (stack_ != nullptr) munmap(stack_, kStackBytes);
}

bool Fiber::Start(void (*entry)()) {
  if (stack_ == nullptr) {
    void* const memory =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    stack_ = static_cast<char*>(memory);
  }
#if defined(KOMPAKT_TSAN)
  // The functions that a fiber leaves without returning stay on the sanitizer's own stack of calls, which is bounded.
  if (starts_++ % kStartsPerThreadState == 0) {
    if (thread_state_ != nullptr) __tsan_destroy_fiber(thread_state_);
    thread_state_ = __tsan_create_fiber(0);
  }
#endif
#if defined(KOMPAKT_ASAN)
  // Frames that were left behind keep their red zones.
  if (started_) __asan_unpoison_memory_region(stack_, kStackBytes);
#endif
  started_ = true;
  entry_ = entry;
  auto* const top = reinterpret_cast<void**>(stack_ + kStackBytes);
#if defined(__x86_64__)
  // A return address for Enter's caller, which is nobody; Enter, where `ret` jumps to; six registers.
  constexpr int kSlots = 8;
  for (int i = 1; i <= kSlots; ++i) top[-i] = nullptr;
  top[-2] = reinterpret_cast<void*>(&Fiber::Enter);
#else
  constexpr int kSlots = 20;
  for (int i = 1; i <= kSlots; ++i) top[-i] = nullptr;
  top[-kSlots + 11] = reinterpret_cast<void*>(&Fiber::Enter);  // x30
#endif
  stack_pointer_ = top - kSlots;
  return true;
}

void Fiber::Enter() {
#if defined(KOMPAKT_ASAN)
  __sanitizer_finish_switch_fiber(host.running->fake_stack_, &host.stack_bottom, &host.stack_bytes);
#endif
  host.running->entry_();
}

void Fiber::Resume() {
  host.running = this;
#if defined(KOMPAKT_ASAN)
  __sanitizer_start_switch_fiber(&host.fake_stack, stack_, kStackBytes);
#endif
#if defined(KOMPAKT_TSAN)
  host.thread_state = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(thread_state_, 0);
#endif
  kompakt_switch_stack(&host.stack_pointer, stack_pointer_);
#if defined(KOMPAKT_ASAN)
  __sanitizer_finish_switch_fiber(host.fake_stack, nullptr, nullptr);
#endif
}

void Fiber::Leave(bool for_good) {
  started_ = !for_good;
#if defined(KOMPAKT_ASAN)
  // Not even then is the fake stack given back: making one is slow, and the next start takes it up.
  __sanitizer_start_switch_fiber(&fake_stack_, host.stack_bottom, host.stack_bytes);
#endif
#if defined(KOMPAKT_TSAN)
  __tsan_switch_to_fiber(host.thread_state, 0);
#endif
  kompakt_switch_stack(&stack_pointer_, host.stack_pointer);
#if defined(KOMPAKT_ASAN)
  __sanitizer_finish_switch_fiber(fake_stack_, &host.stack_bottom, &host.stack_bytes);
#endif
}

}  // namespace kompakt::cuda_sim
