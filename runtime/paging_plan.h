// PagingPlan: what a promise of so much memory is spent on when a packed file is run by an ExpertCache.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "format/model_schema.h"
#include "format/packed_layout.h"
#include "kernels/latent_cache.h"

namespace kompakt {

struct PagingPlan {
  uint64_t ram_bytes = 0;       // the promise
  uint64_t program_bytes = 0;   // the process as it is, and what its verb needs besides
  uint64_t resident_bytes = 0;  // weights that every token uses
  uint64_t cache_bytes = 0;     // runtime/footprint.h
  uint64_t working_bytes = 0;
  uint64_t expert_bytes = 0;      // slots of the ExpertCache
  uint64_t all_expert_bytes = 0;  // if every expert had one
  int64_t layers = 0;             // with routed experts
  int64_t experts = 0;            // of a layer
  int64_t least_slots = 0;        // of any layer
  uint64_t even_read_bytes = 0;   // per token when every expert is as likely as any other, after a while
};

// For a timeline of `context` tokens, kept as `cache_format`, on `threads` threads. kInvalidArgument, naming what each
// part takes and the least that works, when ram_bytes is less than that.
absl::StatusOr<PagingPlan> PlanPaging(const ModelSchema& schema, const PackedLayout& layout, uint64_t ram_bytes,
                                      uint64_t program_bytes, int64_t context, int threads, CacheFormat cache_format);

}  // namespace kompakt
