// The memory that a session takes on a device besides weights.
#pragma once

#include <cstdint>

#include "format/arch_spec.pb.h"
#include "kernels/cuda/mla_params.h"
#include "kernels/latent_cache.h"

namespace kompakt {

// Tokens that go through the layers together on a device.
inline constexpr int64_t kDeviceChunkTokens = 256;

struct DeviceFootprint {
  uint64_t cache_token_bytes = 0;  // of one token in the latent cache of one layer
  uint64_t working_bytes = 0;      // activations, scratch and staging; an upper bound
};

// The latent cache of one layer of `context` rows, without memory: int8 where that is asked for, else BF16.
cuda::DeviceLatentCache DeviceCacheOf(const ArchSpec& arch, CacheFormat format, int64_t context);

// For a timeline of `context` tokens. `arch` must have passed ValidateArchSpec.
DeviceFootprint DeviceFootprintOf(const ArchSpec& arch, CacheFormat format, int64_t context);

// Of `free` bytes of device memory: what a model may take when nobody set a limit. The rest is for the driver's own
// needs and for whoever shares the device.
uint64_t UsableDeviceBytes(uint64_t free);

}  // namespace kompakt
