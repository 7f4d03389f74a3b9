#include "runtime/device_footprint.h"

#include <algorithm>

#include "runtime/device_scratch.h"

namespace kompakt {

cuda::DeviceLatentCache DeviceCacheOf(const ArchSpec& arch, CacheFormat format, int64_t context) {
  return {.format = format == CacheFormat::kInt8 ? cuda::LatentFormat::kInt8 : cuda::LatentFormat::kBf16,
          .rank = static_cast<int>(arch.mla().kv_lora_rank()),
          .rope = static_cast<int>(arch.mla().qk_rope_head_dim()),
          .capacity = context};
}

cuda::DeviceIndexCache DeviceIndexCacheOf(const ArchSpec& arch, int64_t context) {
  const bool selects = arch.attention() == ATTENTION_MLA_INDEXED && context > arch.indexer().index_topk();
  return {.dim = static_cast<int>(arch.indexer().index_head_dim()), .capacity = selects ? context : 0};
}

CacheReads DeviceCacheReads(const ArchSpec& arch, const DeviceFootprint& footprint, int64_t depth) {
  const int64_t rows = footprint.index_token_bytes > 0 ? std::min(depth, arch.indexer().index_topk()) : depth;
  return {.rows = static_cast<double>(footprint.cache_token_bytes) * static_cast<double>(rows),
          .keys = static_cast<double>(footprint.index_token_bytes) * static_cast<double>(depth)};
}

DeviceFootprint DeviceFootprintOf(const ArchSpec& arch, CacheFormat format, int64_t context) {
  DeviceFootprint footprint;
  footprint.cache_token_bytes = static_cast<uint64_t>(DeviceCacheOf(arch, format, context).row_bytes());
  const cuda::DeviceIndexCache keys = DeviceIndexCacheOf(arch, context);
  footprint.index_token_bytes = keys.capacity > 0 ? static_cast<uint64_t>(keys.row_bytes()) : 0;
  footprint.working_bytes = DeviceScratch::BytesFor(arch, context, std::min(context, kDeviceChunkTokens));
  return footprint;
}

uint64_t UsableDeviceBytes(uint64_t free) {
  const uint64_t reserve = std::max<uint64_t>(free / 32, uint64_t{256} << 20);
  return free > reserve ? free - reserve : 0;
}

}  // namespace kompakt
