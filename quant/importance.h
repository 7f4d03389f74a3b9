// Importance: how much a squared error in each column of a matrix counts, from a calibration. The expected squared
// error of a product is sum_j E[x_j^2] (error of w_j)^2 where inputs are independent, so it is the mean square of the
// channel:
//     a = (n p + K q) / (n + K)            p: the input's own mean squares, q: what stands in for what was not seen
// both with mean 1; n tokens were seen, K = kPriorTokens. q of a routed expert is the mean over its layer's experts,
// weighted by their tokens; otherwise all ones. No value is below kLeastImportance, and the mean is 1.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/calibration_file.h"

namespace kompakt {

inline constexpr double kPriorTokens = 64;
// A channel that was silent on this text may speak on another.
inline constexpr double kLeastImportance = 1.0 / 1024;

// The formula. p: mean squares over n tokens, any scale; q: with mean 1, or empty for all ones.
std::vector<float> BlendImportance(absl::Span<const float> p, double n, absl::Span<const float> q);

class Importance {
 public:
  // Checks that the file is for this model, and reads it once for the means of layers. Errors are CheckModel's and the
  // file's.
  static absl::StatusOr<std::shared_ptr<const Importance>> Create(std::shared_ptr<const CalibrationFile> file,
                                                                  const ModelSchema& schema, const ModelAssets& assets);

  const CalibrationFile& file() const { return *file_; }
  // [cols] of a matrix; empty where all columns count alike: for an embedding that is not also the head, vectors and
  // router, and MTP layers that were not calibrated. Reads the file; safe from several threads.
  absl::StatusOr<std::vector<float>> Of(const TensorInfo& tensor) const;
  // q of a row of the file; empty for all ones.
  absl::Span<const float> PriorOf(int64_t row) const;
  // Of this and what one thread holds of it.
  uint64_t MemoryBytes() const;
  uint64_t MemoryBytesPerThread() const;

 private:
  Importance(std::shared_ptr<const CalibrationFile> file, const ArchSpec& arch) : file_(std::move(file)), arch_(arch) {}
  absl::Status ReadLayers();

  std::shared_ptr<const CalibrationFile> file_;
  ArchSpec arch_;
  std::map<std::pair<TensorRole, int64_t>, std::vector<float>> layer_means_;  // of routed experts; mean 1
};

}  // namespace kompakt
