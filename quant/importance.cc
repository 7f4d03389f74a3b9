#include "quant/importance.h"

#include <algorithm>
#include <utility>

#include "format/status.h"
#include "runtime/linear_observer.h"

namespace kompakt {
namespace {

double MeanOf(absl::Span<const float> values) {
  double sum = 0;
  for (const float v : values) sum += static_cast<double>(v);
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

}  // namespace

std::vector<float> BlendImportance(absl::Span<const float> p, double n, absl::Span<const float> q) {
  const double mean = MeanOf(p);
  // Inputs that were zero throughout say nothing of their channels.
  const double own = n > 0 && mean > 0 ? n / (n + kPriorTokens) : 0;
  std::vector<double> blended(p.size());
  double sum = 0;
  for (size_t c = 0; c < p.size(); ++c) {
    const double prior = q.empty() ? 1.0 : static_cast<double>(q[c]);
    const double value = (own > 0 ? own * static_cast<double>(p[c]) / mean : 0) + (1 - own) * prior;
    blended[c] = std::max(value, kLeastImportance);
    sum += blended[c];
  }
  std::vector<float> importance(p.size());
  const double scale = static_cast<double>(p.size()) / sum;
  for (size_t c = 0; c < p.size(); ++c) importance[c] = static_cast<float>(blended[c] * scale);
  return importance;
}

absl::StatusOr<std::shared_ptr<const Importance>> Importance::Create(std::shared_ptr<const CalibrationFile> file,
                                                                     const ModelSchema& schema,
                                                                     const ModelAssets& assets) {
  KOMPAKT_RETURN_IF_ERROR(file->CheckModel(schema, assets));
  auto importance = std::shared_ptr<Importance>(new Importance(std::move(file), schema.arch()));
  KOMPAKT_RETURN_IF_ERROR(importance->ReadLayers());
  return importance;
}

absl::Status Importance::ReadLayers() {
  std::map<std::pair<TensorRole, int64_t>, std::vector<double>> sums;
  std::vector<float> means;
  for (size_t r = 0; r < file_->rows().size(); ++r) {
    const CalibrationRow& row = file_->rows()[r];
    if (row.expert < 0) continue;
    means.resize(static_cast<size_t>(row.width));
    KOMPAKT_RETURN_IF_ERROR(file_->ReadMeans(static_cast<int64_t>(r), absl::MakeSpan(means)));
    std::vector<double>& sum = sums[{row.role, row.layer}];
    sum.resize(std::max(sum.size(), means.size()));
    for (size_t c = 0; c < means.size(); ++c) sum[c] += static_cast<double>(row.tokens) * static_cast<double>(means[c]);
  }
  for (const auto& [key, sum] : sums) {
    double total = 0;
    for (const double v : sum) total += v;
    std::vector<float>& mean = layer_means_[key];
    for (const double v : sum) {
      mean.push_back(total > 0 ? static_cast<float>(v / total * static_cast<double>(sum.size())) : 1.0f);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> Importance::Of(const TensorInfo& tensor) const {
  TensorRole role = tensor.role;
  if (!LinearInputOf(arch_, tensor.role, &role)) return std::vector<float>();
  const int64_t index = file_->Find(role, tensor.layer, tensor.expert);
  if (index < 0) return std::vector<float>();
  const CalibrationRow& row = file_->rows()[static_cast<size_t>(index)];
  if (row.width != tensor.cols) {
    return CorruptError(file_->path(), ": ", NameOf(row), ": expected ", tensor.cols, " channels, found ", row.width);
  }
  std::vector<float> means(static_cast<size_t>(row.width));
  KOMPAKT_RETURN_IF_ERROR(file_->ReadMeans(index, absl::MakeSpan(means)));
  return BlendImportance(means, static_cast<double>(row.tokens), PriorOf(index));
}

absl::Span<const float> Importance::PriorOf(int64_t row) const {
  const CalibrationRow& info = file_->rows()[static_cast<size_t>(row)];
  const auto layer = layer_means_.find({info.role, info.layer});
  if (info.expert < 0 || layer == layer_means_.end()) return {};
  return layer->second;
}

uint64_t Importance::MemoryBytes() const {
  // A row, its place in the file and its node in the index.
  constexpr uint64_t kBytesPerRow = 192;
  uint64_t bytes = file_->rows().size() * kBytesPerRow;
  for (const auto& [key, mean] : layer_means_) bytes += mean.capacity() * sizeof(float);
  return bytes;
}

uint64_t Importance::MemoryBytesPerThread() const {
  int64_t widest = 0;
  for (const CalibrationRow& row : file_->rows()) widest = std::max(widest, row.width);
  // Mean squares, what they become, and that in double.
  return static_cast<uint64_t>(widest) * (2 * sizeof(float) + sizeof(double));
}

}  // namespace kompakt
