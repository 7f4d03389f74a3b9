// Footprint: the memory that running a model takes besides its file.
#pragma once

#include <cstdint>

#include "format/arch_spec.pb.h"
#include "kernels/latent_cache.h"

namespace kompakt {

// Tokens that go through the layers together: enough to use every decoded weight many times, few enough that the
// activations of a large model stay near 100 MB.
inline constexpr int64_t kChunkTokens = 512;

struct Footprint {
  uint64_t cache_bytes = 0;    // latent KV cache and keys of indexers, exactly what a Session allocates
  uint64_t working_bytes = 0;  // activations and scratch of the kernels; an upper bound

  uint64_t total() const { return cache_bytes + working_bytes; }
};

// What one token takes in the caches of all layers.
uint64_t CacheBytesPerToken(const ArchSpec& arch, CacheFormat format);

// For a timeline of `context` tokens on `threads` threads. `arch` must have passed ValidateArchSpec.
Footprint FootprintOf(const ArchSpec& arch, int64_t context, int threads, CacheFormat format);

}  // namespace kompakt
