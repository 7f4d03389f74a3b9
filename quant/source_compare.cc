#include "quant/source_compare.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "format/parallel_for.h"
#include "format/status.h"

namespace kompakt {

ExpectedSourceXxh3 RecordedSourceXxh3(const Manifest& manifest, const PackedLayout& layout) {
  return [&manifest, layout](const TensorInfo& tensor) -> absl::optional<uint64_t> {
    const PackedLayout::Place place = layout.Find(tensor.role, tensor.layer);
    const PartEntry& part = manifest.extents(static_cast<int>(place.extent)).parts(static_cast<int>(place.part));
    if (part.source_xxh3_size() == 0) return absl::nullopt;
    return part.source_xxh3(static_cast<int>(std::max<int64_t>(tensor.expert, 0)));
  };
}

std::string SourceDifference(const TensorInfo& tensor, uint64_t before, uint64_t now) {
  if (before == now) return "";
  return absl::StrCat("tensor ", tensor.Name(), " differs (source XXH3 ", HexOf(before), " before, ", HexOf(now),
                      " now)");
}

absl::StatusOr<std::string> FirstSourceDifference(const TensorSource& source, const ExpectedSourceXxh3& expected,
                                                  const SourceCompare& options) {
  std::vector<std::pair<const TensorInfo*, uint64_t>> work;
  for (const TensorInfo& tensor : source.schema().tensors()) {
    if (const absl::optional<uint64_t> xxh3 = expected(tensor)) work.emplace_back(&tensor, *xxh3);
  }
  const int64_t total = static_cast<int64_t>(work.size());
  std::mutex mutex;  // guards what follows and the call of progress
  int64_t first = total;
  std::string difference;
  absl::Status failure;
  int64_t done = 0;
  const auto is_interrupted = [&] { return options.interrupted != nullptr && options.interrupted->load(); };
  ParallelFor(options.threads, total, [&](int64_t i, int) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (is_interrupted() || first < total || !failure.ok()) return;
    }
    const auto& [tensor, before] = work[static_cast<size_t>(i)];
    const absl::StatusOr<uint64_t> now = ReadSourceXxh3(source, *tensor, options.interrupted);
    const std::lock_guard<std::mutex> lock(mutex);
    if (!now.ok()) {
      failure.Update(now.status());
      return;
    }
    if (*now != before && i < first) {
      first = i;
      difference = SourceDifference(*tensor, before, *now);
    }
    ++done;
    if (options.progress) options.progress(done, total);
  });
  if (is_interrupted() || absl::IsCancelled(failure))
    return absl::CancelledError("interrupted while the source was compared");
  KOMPAKT_RETURN_IF_ERROR(failure);
  return difference;
}

}  // namespace kompakt
