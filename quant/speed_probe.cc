#include "quant/speed_probe.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "format/status.h"
#include "quant/band_encoder.h"
#include "quant/calibration_file.h"
#include "quant/error_feedback.h"

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
  // Without feedback, whose factors may take minutes: FeedbackSeconds reckons it.
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

// What error feedback takes besides the search: per matrix a constant and K multiplications for every weight, per input
// K^3 / 6 for its factors. Measured at two widths.
absl::StatusOr<double> FeedbackSeconds(const TensorSource& source, const ConversionPlan& plan) {
  if (plan.feedback == nullptr) return 0;
  constexpr int64_t kWidths[] = {256, 1024};
  constexpr FormatId kFormat = FormatId::kQ4G32;
  double per_weight[2] = {};
  double per_product = 0;
  EncoderScratch scratch;
  for (int w = 0; w < 2; ++w) {
    const int64_t cols = kWidths[w];
    std::vector<float> triangle(static_cast<size_t>(TriangleSize(cols)), 0.25f);
    for (int64_t i = 0, at = 0; i < cols; at += cols - i, ++i) triangle[static_cast<size_t>(at)] = 1;
    auto start = Clock::now();
    KOMPAKT_ASSIGN_OR_RETURN(const FeedbackFactor factor, FeedbackFactor::Create(std::move(triangle), cols));
    per_product = SecondsSince(start) * 6 / (static_cast<double>(cols) * static_cast<double>(cols * cols));
    std::vector<float> values(static_cast<size_t>(kTileRows * cols));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 2654435761U % 1024) - 512;
    std::vector<uint8_t> tiles(static_cast<size_t>(cols / kTileCols) * FormatOf(kFormat).tile_bytes);
    float scales[kTileRows];
    const RowTile in = {values.data(), kTileRows, cols, factor.diagonal()};
    const auto encode = [&](bool feedback) {
      return feedback ? EncodeRowTileWithFeedback(kFormat, plan.scale_search, in, factor, scratch,
                                                  absl::MakeSpan(tiles), absl::MakeSpan(scales), nullptr)
                      : EncodeRowTile(kFormat, plan.scale_search, in, scratch, absl::MakeSpan(tiles),
                                      absl::MakeSpan(scales), nullptr);
    };
    for (const bool feedback : {true, false}) {
      double best = 1;
      for (int i = 0; i < 4; ++i) {
        start = Clock::now();
        KOMPAKT_RETURN_IF_ERROR(encode(feedback));
        best = std::min(best, SecondsSince(start));
      }
      per_weight[w] += (feedback ? best : -best) / static_cast<double>(values.size());
    }
  }
  const double slope = std::max(0.0, per_weight[1] - per_weight[0]) / static_cast<double>(kWidths[1] - kWidths[0]);
  const double constant = std::max(0.0, per_weight[0] - slope * static_cast<double>(kWidths[0]));
  double seconds = 0;
  std::set<int64_t> inputs;
  for (const TensorInfo& tensor : source.schema().tensors()) {
    const int64_t input = plan.feedback->InputOf(tensor);
    if (input < 0) continue;
    const auto cols = static_cast<double>(tensor.cols);
    seconds += static_cast<double>(tensor.elements()) * (constant + slope * cols);
    if (inputs.insert(input).second) seconds += per_product * cols * cols * cols / 6;
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
  KOMPAKT_ASSIGN_OR_RETURN(const double feedback_seconds, FeedbackSeconds(source, plan));
  estimate.encode_seconds += feedback_seconds;
  estimate.total_seconds = estimate.encode_seconds / std::max(threads, 1);
  if (destination.empty()) return estimate;
  KOMPAKT_ASSIGN_OR_RETURN(estimate.write_bytes_per_second, WriteRate(destination + ".probe", fs));
  // Written once while encoding, then read back: a disk reads about as fast as it writes.
  const double pass = static_cast<double>(plan.file_bytes) / estimate.write_bytes_per_second;
  estimate.total_seconds = std::max(estimate.total_seconds, pass) + pass;
  return estimate;
}

}  // namespace kompakt
