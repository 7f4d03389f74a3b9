#include "quant/speed_probe.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "format/status.h"
#include "quant/band_encoder.h"

namespace kompakt {
namespace {

constexpr double kEncodeSeconds = 0.7;
constexpr double kWriteSeconds = 0.3;
constexpr uint64_t kWriteBytes = uint64_t{16} << 20;  // at a time

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Tensors that cost the same per weight.
struct Kind {
  std::vector<size_t> tensors;
  int64_t weights = 0;
  int64_t probed_weights = 0;
};

absl::StatusOr<double> EncodeSeconds(const TensorSource& source, const ConversionPlan& plan) {
  const auto tensors = source.schema().tensors();
  std::map<std::pair<std::string, FormatId>, Kind> kinds;
  int64_t all_weights = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (tensors[t].is_vector()) continue;
    Kind& kind = kinds[{plan.choices[t].form.dtype, plan.choices[t].format}];
    kind.tensors.push_back(t);
    kind.weights += tensors[t].elements();
    all_weights += tensors[t].elements();
  }
  BandEncoder encoder(source, plan.scale_search, plan.importance);
  Band band;
  double seconds = 0;
  for (auto& [key, kind] : kinds) {
    const double share = static_cast<double>(kind.weights) / static_cast<double>(all_weights);
    const auto start = Clock::now();
    // Tensors far apart, so that the disk is measured and not what an earlier read left in memory.
    const size_t stride = std::max<size_t>(1, kind.tensors.size() / 64);
    for (size_t i = 0; i < kind.tensors.size() && (i == 0 || SecondsSince(start) < share * kEncodeSeconds);
         i += stride) {
      const TensorInfo& tensor = tensors[kind.tensors[i]];
      const QuantRecipe::Choice& choice = plan.choices[kind.tensors[i]];
      for (int64_t b = 0; b < BandCount(tensor) && (b == 0 || SecondsSince(start) < share * kEncodeSeconds); ++b) {
        KOMPAKT_RETURN_IF_ERROR(encoder.Encode(tensor, choice.format, choice.exact, b, &band));
        kind.probed_weights += std::min(kBandRows, tensor.rows - b * kBandRows) * tensor.cols;
      }
    }
    seconds += SecondsSince(start) * static_cast<double>(kind.weights) / static_cast<double>(kind.probed_weights);
  }
  return seconds;
}

absl::StatusOr<double> WriteRate(const std::string& path, FileSystem& fs) {
  if (fs.Exists(path)) return absl::AlreadyExistsError(absl::StrCat(path, " is in the way of a speed probe"));
  const std::vector<uint8_t> bytes(kWriteBytes, 0x5a);
  uint64_t written = 0;
  absl::Status status;
  const auto start = Clock::now();
  {
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, fs.OpenForWrite(path));
    while (status.ok() && SecondsSince(start) < kWriteSeconds) {
      status = file->WriteAt(written, bytes);
      written += bytes.size();
      if (status.ok()) status = file->Sync();
    }
  }
  const double seconds = SecondsSince(start);
  KOMPAKT_RETURN_IF_ERROR(fs.Remove(path));
  KOMPAKT_RETURN_IF_ERROR(status);
  return static_cast<double>(written) / seconds;
}

}  // namespace

absl::StatusOr<SpeedEstimate> EstimateSpeed(const TensorSource& source, const ConversionPlan& plan, int threads,
                                            const std::string& destination, FileSystem& fs) {
  SpeedEstimate estimate;
  KOMPAKT_ASSIGN_OR_RETURN(estimate.encode_seconds, EncodeSeconds(source, plan));
  estimate.total_seconds = estimate.encode_seconds / std::max(threads, 1);
  if (destination.empty()) return estimate;
  KOMPAKT_ASSIGN_OR_RETURN(estimate.write_bytes_per_second, WriteRate(destination + ".probe", fs));
  // Written once while encoding, then read back: a disk reads about as fast as it writes.
  const double pass = static_cast<double>(plan.file_bytes) / estimate.write_bytes_per_second;
  estimate.total_seconds = std::max(estimate.total_seconds, pass) + pass;
  return estimate;
}

}  // namespace kompakt
