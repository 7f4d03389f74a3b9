#include "quant/memory_plan.h"

#include <algorithm>

#include "format/status.h"
#include "quant/band_encoder.h"
#include "quant/conversion.h"

namespace kompakt {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kProgramBytes = 24 * kMiB;
// What one tensor takes in the schema, the choices, the source's headers and their index, while they are read too.
constexpr uint64_t kBytesPerTensor = 2048;
// The manifest exists as plan, as written and as read back, each as message and as bytes; so do the assets in it.
constexpr uint64_t kManifestCopies = 8;
// The late fields of one part of one record: error statistics as a message, two checksums.
constexpr uint64_t kLateBytesPerPart = 128;
// A worker's stack, and what its allocator keeps besides.
constexpr uint64_t kWorkerBytes = kMiB;

constexpr uint64_t kLeastReadAhead = 16 * kMiB;
constexpr uint64_t kMostReadAhead = 256 * kMiB;

uint64_t ManifestBytes(const WritePlan& write) {
  uint64_t late = 0;
  for (const Extent& extent : write.layout.extents()) {
    late += static_cast<uint64_t>(extent.record_count) * extent.parts.size() * kLateBytesPerPart;
  }
  return write.manifest.SpaceUsedLong() + late;
}

}  // namespace

absl::StatusOr<MemoryPlan> PlanMemory(const TensorSource& source, const std::vector<QuantRecipe::Choice>& choices,
                                      const WritePlan& write, int threads, uint64_t ram_bytes,
                                      const Importance* importance, const FeedbackPlan* feedback) {
  const uint64_t importance_bytes = importance == nullptr ? 0 : importance->MemoryBytesPerThread();
  uint64_t worker = 0;
  for (size_t t = 0; t < choices.size(); ++t) {
    const TensorInfo& tensor = source.schema().tensors()[t];
    const uint64_t encoder = BandEncoder::MemoryBytes(tensor, choices[t].format);
    const uint64_t waiting = (kBandsPerWorker - 1) * BandEncoder::BandBytes(tensor, choices[t].format);
    // An allocator keeps some of what was freed: a quarter more.
    // Factors are few large pieces, which an allocator gives back.
    const uint64_t factors = feedback == nullptr ? 0 : feedback->BytesPerWorker(tensor);
    worker = std::max(worker, (encoder + waiting + importance_bytes) * 5 / 4 + factors + kWorkerBytes);
  }
  const uint64_t fixed = kProgramBytes + kBytesPerTensor * choices.size() + kManifestCopies * ManifestBytes(write) +
                         (importance == nullptr ? 0 : importance->MemoryBytes()) +
                         (feedback == nullptr ? 0 : feedback->SharedBytes());
  MemoryPlan plan;
  plan.least_bytes = fixed + worker;
  if (ram_bytes != 0 && ram_bytes < plan.least_bytes) {
    const uint64_t least_mib = (plan.least_bytes + kMiB - 1) / kMiB;
    return UsageError("a conversion of this model takes at least ", least_mib, " MiB of memory, it was given ",
                      ram_bytes / kMiB, " MiB; --ram ", least_mib, "MiB is the least that works");
  }
  const uint64_t room = ram_bytes == 0 ? ~uint64_t{0} : (ram_bytes - fixed) / worker;
  plan.workers = static_cast<int>(std::min<uint64_t>(static_cast<uint64_t>(std::max(threads, 1)), room));
  plan.peak_bytes = fixed + static_cast<uint64_t>(plan.workers) * worker;
  plan.read_ahead_bytes = std::clamp(ram_bytes / 4, kLeastReadAhead, kMostReadAhead);
  return plan;
}

}  // namespace kompakt
