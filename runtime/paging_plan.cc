#include "runtime/paging_plan.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_format.h"
#include "format/arch_spec.h"
#include "format/status.h"
#include "runtime/expert_cache.h"
#include "runtime/footprint.h"
#include "runtime/paged_weights.h"

namespace kompakt {
namespace {

// Rounded up, so that the amount named is enough.
std::string MiB(uint64_t bytes) { return absl::StrCat((bytes + (1 << 20) - 1) >> 20, " MiB"); }

// Norms and biases, decoded to F32.
uint64_t VectorBytes(const ModelSchema& schema) {
  uint64_t values = 0;
  for (const TensorInfo& tensor : schema.tensors()) {
    if (tensor.is_vector()) values += static_cast<uint64_t>(tensor.cols);
  }
  return values * sizeof(float);
}

}  // namespace

absl::StatusOr<PagingPlan> PlanPaging(const ModelSchema& schema, const PackedLayout& layout, uint64_t ram_bytes,
                                      uint64_t program_bytes, int64_t context, int threads, CacheFormat cache_format) {
  const Footprint footprint = FootprintOf(schema.arch(), context, threads, cache_format);
  PagingPlan plan;
  plan.ram_bytes = ram_bytes;
  plan.program_bytes = program_bytes;
  plan.resident_bytes = ResidentBytes(layout) + VectorBytes(schema);
  plan.cache_bytes = footprint.cache_bytes;
  plan.working_bytes = footprint.working_bytes;
  for (const Extent& extent : layout.extents()) {
    if (!extent.experts) continue;
    ++plan.layers;
    plan.experts = std::max(plan.experts, extent.record_count);
    plan.all_expert_bytes += extent.total_bytes();
  }
  const uint64_t fixed = program_bytes + plan.resident_bytes + plan.cache_bytes + plan.working_bytes;
  const uint64_t least = ExpertCache::LeastBytes(layout);
  if (ram_bytes < fixed + least) {
    return UsageError("--ram: expected at least ", MiB(fixed + least), ", found ", MiB(ram_bytes), ": ",
                      MiB(plan.resident_bytes), " of weights that every token uses, ", MiB(plan.cache_bytes),
                      " of KV cache for ", context, " tokens, ", MiB(plan.working_bytes), " to work in, ",
                      MiB(program_bytes), " for the program, and ", MiB(least), " for ", ExpertCache::kLeastSlots,
                      " experts in each of ", plan.layers, " layers");
  }
  plan.expert_bytes = std::min(ram_bytes - fixed, plan.all_expert_bytes);
  if (plan.layers == 0) return plan;
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int64_t> slots, ExpertCache::SlotsFor(layout, plan.expert_bytes));
  plan.least_slots = *std::min_element(slots.begin(), slots.end());
  double even_read = 0;
  size_t layer = 0;
  for (const Extent& extent : layout.extents()) {
    if (!extent.experts) continue;
    const int64_t slots_here = slots[layer++];
    if (IsMtpLayer(schema.arch(), extent.layer)) continue;  // no token goes through it
    const auto missing =
        static_cast<double>(extent.record_count - slots_here) / static_cast<double>(extent.record_count);
    even_read += missing * static_cast<double>(extent.record_bytes) *
                 static_cast<double>(schema.arch().moe().num_experts_per_tok());
  }
  plan.even_read_bytes = static_cast<uint64_t>(even_read);
  return plan;
}

}  // namespace kompakt
