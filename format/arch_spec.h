// ArchSpec: the hyper-parameters of one model (message in arch_spec.proto), validated once.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "format/arch_spec.pb.h"

namespace kompakt {

// OK when every count is positive and within 2^31, group counts divide, top-k fits, the rotary dimension is even and
// every enum is set. Fails with kFailedPrecondition naming the field, what was expected and what was found.
absl::Status ValidateArchSpec(const ArchSpec& arch);

// Layers of the main model and MTP layers that are kept.
int64_t LayerCount(const ArchSpec& arch);
bool IsMtpLayer(const ArchSpec& arch, int64_t layer);

// True when `layer` (0-based) has routed experts instead of a dense FFN; every MTP layer has.
bool IsMoeLayer(const ArchSpec& arch, int64_t layer);

// True when `layer` has an indexer of its own.
bool HasIndexer(const ArchSpec& arch, int64_t layer);

// Values per token and layer of the latent KV cache: kv_lora_rank + qk_rope_head_dim.
int64_t LatentCacheWidth(const ArchSpec& arch);

}  // namespace kompakt
