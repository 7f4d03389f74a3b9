// The memory that a session takes on a device besides weights.
#pragma once

#include <cstdint>

#include "format/arch_spec.pb.h"
#include "kernels/cuda/index_params.h"
#include "kernels/cuda/mla_params.h"
#include "kernels/latent_cache.h"
#include "runtime/placement.h"

namespace kompakt {

// Tokens that go through the layers together on a device.
inline constexpr int64_t kDeviceChunkTokens = 256;

struct DeviceFootprint {
  uint64_t cache_token_bytes = 0;  // of one token in the latent cache of one layer
  uint64_t index_token_bytes = 0;  // and in the index cache of a layer with an indexer
  uint64_t working_bytes = 0;      // activations, scratch and staging; an upper bound
};

// The latent cache of one layer of `context` rows, without memory: int8 where that is asked for, else BF16.
cuda::DeviceLatentCache DeviceCacheOf(const ArchSpec& arch, CacheFormat format, int64_t context);

// The keys of an indexer, likewise; without rows where no token of a timeline of `context` sees more than index_topk
// rows, so that none are selected.
cuda::DeviceIndexCache DeviceIndexCacheOf(const ArchSpec& arch, int64_t context);

// Bytes of the caches that a token reads behind `depth` others, in a timeline of so many.
CacheReads DeviceCacheReads(const ArchSpec& arch, const DeviceFootprint& footprint, int64_t depth);

// For a timeline of `context` tokens. `arch` must have passed ValidateArchSpec.
DeviceFootprint DeviceFootprintOf(const ArchSpec& arch, CacheFormat format, int64_t context);

// Of `free` bytes of device memory: what a model may take when nobody set a limit. The rest is for the driver's own
// needs and for whoever shares the device.
uint64_t UsableDeviceBytes(uint64_t free);

}  // namespace kompakt
