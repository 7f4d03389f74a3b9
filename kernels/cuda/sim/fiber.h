// Fiber: a function that runs on a stack of its own until it switches away, and goes on from there later.
//
// x86-64 and aarch64. A switch saves the registers that a call preserves, nothing else: a few nanoseconds. Address and
// thread sanitizer are told of every switch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kompakt::cuda_sim {

class Fiber {
 public:
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next Resume calls `entry`, which must end with Leave(true). What the fiber was doing is forgotten; no
  // destructor runs. False: there is no memory for its stack.
  bool Start(void (*entry)());

  // From the host thread: runs the fiber until it calls Leave.
  void Resume();
  // From the fiber: back to the caller of Resume. `for_good`: it will not be resumed before the next Start.
  void Leave(bool for_good);

 private:
  static void Enter();

  void* stack_pointer_ = nullptr;
  char* stack_ = nullptr;  // lowest address
  void (*entry_)() = nullptr;
  bool started_ = false;
  [[maybe_unused]] void* fake_stack_ = nullptr;    // address sanitizer's
  [[maybe_unused]] void* thread_state_ = nullptr;  // thread sanitizer's
  [[maybe_unused]] int64_t starts_ = 0;            // for it
};

}  // namespace kompakt::cuda_sim
