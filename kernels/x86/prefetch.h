// How far ahead loops over memory ask for what they will compute with.
#pragma once

#include <cstdint>

namespace kompakt::x86 {

// The processor's own prefetching has the lines of a stream on their way to the second level. Who asks for them much
// earlier waits for memory with the first level's few places (24 on Zen 4), and is slower than who does not ask.
inline constexpr int64_t kAheadBytes = 256;

// Asks for what is to follow a tile soon.
template <uint64_t kTileBytes>
inline void PrefetchAfter(const uint8_t* tile) {
  constexpr uint64_t kLine = 64;
#pragma GCC unroll 9
  for (uint64_t b = 0; b < kTileBytes; b += kLine) __builtin_prefetch(tile + kAheadBytes + b, 0, 3);
}

}  // namespace kompakt::x86
