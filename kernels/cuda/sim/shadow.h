// Shadow: the shared memory of a block and, for each of its bytes, who wrote and read it last, and when.
//
// Time is a counter that every synchronisation moves on. An access is ordered after an earlier one of another thread
// when the block, or the warp of both, was synchronised after the earlier one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace kompakt::cuda_sim {

enum class Access : uint8_t { kRead, kWrite, kAtomic, kAsyncIssue, kAsyncArrive };

struct ShadowError {
  const char* what = nullptr;  // null: no error
  unsigned other = ~0u;        // thread it concerns, or none
  size_t offset = 0;
};

class Shadow {
 public:
  Shadow();

  uint8_t* data() { return data_; }
  // Nothing is written.
  void StartBlock();
  void SyncBlock() { block_sync_ = ++now_; }
  void SyncWarp(unsigned warp) { warp_sync_[warp] = ++now_; }
  ShadowError Check(Access access, const uint8_t* p, size_t bytes, unsigned thread);

 private:
  struct Byte {
    uint64_t written = 0;  // when; 0: never
    uint64_t read = 0;
    uint16_t writer = 0;  // thread, or kAtomics, or kPending
    uint16_t reader = 0;  // thread, or one of a warp (kWarpReaders + warp), or kReaders
  };
  bool Ordered(uint64_t when, unsigned other, unsigned thread) const {
    return when < block_sync_ || (other / 32 == thread / 32 && when < warp_sync_[thread / 32]);
  }
  const char* CheckByte(Access access, Byte& byte, unsigned thread, unsigned* other) const;
  void Record(Access access, Byte& byte, unsigned thread) const;

  std::vector<uint8_t> memory_;
  uint8_t* data_;
  std::vector<Byte> bytes_;
  uint64_t now_ = 1;
  uint64_t block_start_ = 1;
  uint64_t block_sync_ = 1;
  std::array<uint64_t, 32> warp_sync_{};
};

}  // namespace kompakt::cuda_sim
