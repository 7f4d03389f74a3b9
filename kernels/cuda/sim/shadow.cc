#include "kernels/cuda/sim/shadow.h"

#include "kernels/cuda/sim/block.h"

namespace kompakt::cuda_sim {
namespace {

constexpr size_t kAlign = 1024;
constexpr uint16_t kAtomics = 0xffff;      // several threads, atomically
constexpr uint16_t kPending = 0x8000;      // + thread: by a cp.async that was not waited for
constexpr uint16_t kWarpReaders = 0x4000;  // + warp: several threads of it
constexpr uint16_t kReaders = 0xffff;

}  // namespace

Shadow::Shadow() : memory_(kMaxSharedBytes + kAlign), bytes_(kMaxSharedBytes) {
  const auto address = reinterpret_cast<uintptr_t>(memory_.data());
  data_ = memory_.data() + (kAlign - address % kAlign) % kAlign;
}

void Shadow::StartBlock() {
  block_start_ = block_sync_ = ++now_;
  warp_sync_.fill(now_);
}

const char* Shadow::CheckByte(Access access, Byte& byte, unsigned thread, unsigned* other) const {
  const bool written = byte.written >= block_start_;
  if (access == Access::kAsyncArrive) return nullptr;
  if (written && byte.writer != kAtomics && (byte.writer & kPending) != 0) {
    *other = byte.writer & ~kPending;
    return "access of what a cp.async has not brought yet, as far as the code waited for it;";
  }
  const bool by_atomics = written && byte.writer == kAtomics;
  // Several threads may have taken part, so only the block's barriers are sure to order them.
  const bool write_ordered =
      !written ||
      (by_atomics ? byte.written < block_sync_ : byte.writer == thread || Ordered(byte.written, byte.writer, thread));
  if (access == Access::kRead || access == Access::kAtomic) {
    if (!written) return "read of uninitialised shared memory";
  }
  if (!write_ordered && !(access == Access::kAtomic && by_atomics)) {
    if (!by_atomics) *other = byte.writer;
    return access == Access::kRead ? "a race: read of what was written without a barrier since, a write"
                                   : "a race: write after a write without a barrier in between, the write";
  }
  if (access == Access::kRead) return nullptr;
  if (byte.read >= block_start_ && byte.read >= block_sync_ && byte.reader != thread) {
    const bool one = byte.reader < kWarpReaders;
    const unsigned warp = one ? byte.reader / 32u : byte.reader == kReaders ? ~0u : byte.reader - kWarpReaders;
    const bool ordered = warp == thread / 32 && byte.read < warp_sync_[warp];
    if (!ordered) {
      if (one) *other = byte.reader;
      return "a race: write after a read without a barrier in between, the read";
    }
  }
  return nullptr;
}

void Shadow::Record(Access access, Byte& byte, unsigned thread) const {
  if (access == Access::kRead) {
    const auto me = static_cast<uint16_t>(thread);
    const bool fresh = byte.read < block_sync_;
    if (!fresh && byte.reader != me) {
      const auto warp = static_cast<uint16_t>(kWarpReaders + thread / 32);
      const bool same_warp = byte.reader == warp || (byte.reader < kWarpReaders && byte.reader / 32u == thread / 32);
      byte.reader = same_warp ? warp : kReaders;
    } else {
      byte.reader = me;
    }
    byte.read = now_;
    return;
  }
  byte.written = now_;
  byte.writer = static_cast<uint16_t>(access == Access::kAtomic       ? kAtomics
                                      : access == Access::kAsyncIssue ? kPending + thread
                                                                      : thread);
}

ShadowError Shadow::Check(Access access, const uint8_t* p, size_t bytes, unsigned thread) {
  const auto offset = static_cast<size_t>(p - data_);
  if (p < data_ || offset + bytes > kMaxSharedBytes)
    return {.what = "access that is not of shared memory", .offset = 0};
  for (size_t i = offset; i < offset + bytes; ++i) {
    unsigned other = ~0u;
    const char* const what = CheckByte(access, bytes_[i], thread, &other);
    if (what != nullptr) return {.what = what, .other = other, .offset = i};
    Record(access, bytes_[i], thread);
  }
  return {};
}

}  // namespace kompakt::cuda_sim
