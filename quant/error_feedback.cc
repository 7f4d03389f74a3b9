#include "quant/error_feedback.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <numeric>
#include <utility>

#include "format/status.h"
#include "quant/calibration_file.h"
#include "quant/encode_table.h"
#include "quant/encoder_set.h"
#include "quant/feedback_view.h"

namespace kompakt {
namespace {

int64_t Padded(int64_t cols) { return (cols + kTileCols - 1) / kTileCols * kTileCols; }

// Wider than any matrix of the family; keeps products of sizes far from overflow.
constexpr int64_t kMostCols = int64_t{1} << 17;

}  // namespace

absl::StatusOr<FeedbackFactor> FeedbackFactor::Create(std::vector<float> triangle, int64_t cols,
                                                      const std::atomic<bool>* interrupted) {
  if (cols < 1 || cols > kMostCols || triangle.size() != static_cast<size_t>(TriangleSize(cols))) {
    return UsageError("second moments: expected the triangle of a matrix of 1 to ", kMostCols, " columns, got ",
                      triangle.size(), " values for ", cols, " columns");
  }
  FeedbackFactor factor;
  factor.cols_ = cols;
  const int64_t padded = Padded(cols);
  const float* element = triangle.data();
  for (int64_t row = 0; row < cols; ++row) {
    factor.diagonal_.push_back(*element);
    for (int64_t col = row; col < cols; ++col, ++element) {
      if (std::isfinite(*element)) continue;
      return CorruptError("second moments, row ", row, ", column ", col, ": expected a finite value, found ", *element);
    }
  }
  // The method goes from the first row down, feedback needs triangles the other way round: rows and columns are
  // reversed.
  try {
    const auto floats = static_cast<size_t>(FeedbackPanels<float>::Floats(padded));
    std::vector<float> lower(floats), d(static_cast<size_t>(padded));
    ScratchBuffer lanes;
    FactorWork work = {.h = triangle.data(), .cols = cols, .panels = {lower.data(), padded}, .d = d.data()};
    work.go_on = [](const void* flag) {
      return flag == nullptr || !static_cast<const std::atomic<bool>*>(flag)->load();
    };
    work.go_on_data = interrupted;
    work.x = lanes.Get<float>(static_cast<size_t>(2 * padded * kTileRows));
    work.e = work.x + padded * kTileRows;
    if (!BestEncoderSet().factor(work)) {
      if (work.failed_at < 0) return absl::CancelledError("interrupted while second moments were taken apart");
      return CorruptError("second moments: column ", cols - 1 - work.failed_at,
                          " depends on the ones behind it; expected a positive definite matrix, damp it more");
    }
    std::vector<float>().swap(triangle);
    factor.packed_.resize(floats);
    const FeedbackPanels<float> upper = {factor.packed_.data(), padded};
    for (int64_t j = 0; j < cols; ++j) {
      for (int64_t k = j + 1; k < cols; ++k) upper.At(j, k) = work.panels.At(cols - 1 - k, cols - 1 - j);
    }
    factor.d_.resize(static_cast<size_t>(padded));
    std::reverse_copy(d.begin(), d.begin() + cols, factor.d_.begin());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for the factors of second moments of ", cols,
                                                     " columns, expected ", BytesWhileMade(cols), " bytes"));
  }
  return factor;
}

absl::StatusOr<FeedbackFactor> FeedbackFactor::FromMatrix(absl::Span<const float> h, int64_t cols) {
  if (cols < 1 || cols > kMostCols || h.size() != static_cast<size_t>(cols * cols)) {
    return UsageError("second moments: expected ", cols, " x ", cols, " values of 1 to ", kMostCols, " columns, got ",
                      h.size(), " values");
  }
  std::vector<float> triangle;
  triangle.reserve(static_cast<size_t>(TriangleSize(cols)));
  for (int64_t row = 0; row < cols; ++row) {
    triangle.insert(triangle.end(), h.begin() + row * cols + row, h.begin() + (row + 1) * cols);
  }
  return Create(std::move(triangle), cols);
}

uint64_t FeedbackFactor::BytesFor(int64_t cols) {
  const int64_t padded = Padded(cols);
  return static_cast<uint64_t>(FeedbackPanels<float>::Floats(padded) + 2 * padded) * sizeof(float);
}

uint64_t FeedbackFactor::BytesWhileMade(int64_t cols) {
  const uint64_t lanes = static_cast<uint64_t>(2 * Padded(cols) * kTileRows) * sizeof(float);
  // The triangle has gone when the second set of panels comes.
  return 2 * BytesFor(cols) + lanes;
}

float FeedbackFactor::At(int64_t j, int64_t k) const {
  if (j == k) return 1;
  return j > k ? 0 : FeedbackPanels<const float>{packed_.data(), Padded(cols_)}.At(j, k);
}

absl::Status EncodeRowTileWithFeedback(FormatId format, SearchEffort effort, const RowTile& in,
                                       const FeedbackFactor& factor, EncoderScratch& scratch, absl::Span<uint8_t> tiles,
                                       absl::Span<float> row_scales, TileError* error) {
  if (in.cols != factor.cols()) {
    return UsageError("the second moments have ", factor.cols(), " columns, the matrix ", in.cols);
  }
  RowTile weighted = in;
  weighted.importance = factor.diagonal();
  const TableFormat* table = FindTableFormat(format);
  if (table == nullptr) return EncodeRowTile(format, effort, weighted, scratch, tiles, row_scales, error);
  // A power of two, so that the ratios stay as they are.
  const float largest = *std::max_element(factor.d_.begin(), factor.d_.end());
  const double scale = std::ldexp(1.0, -std::ilogb(largest));
  float* d = scratch.moments.Get<float>(factor.d_.size());
  for (size_t c = 0; c < factor.d_.size(); ++c) d[c] = static_cast<float>(static_cast<double>(factor.d_[c]) * scale);
  const FeedbackView view = {.m = {factor.packed_.data(), Padded(in.cols)}, .d = d};
  return EncodeRowTileBy(
      [&](TileError* sums) {
        return BestEncoderSet().table_with_feedback(*table, effort, weighted, view, scratch, tiles.data(),
                                                    row_scales.data(), sums);
      },
      format, weighted, tiles, row_scales, error);
}

std::vector<int32_t> ActivationOrder(absl::Span<const float> mean_squares) {
  std::vector<int32_t> order(mean_squares.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return mean_squares[static_cast<size_t>(a)] > mean_squares[static_cast<size_t>(b)];
  });
  return order;
}

std::vector<float> PermuteTriangle(absl::Span<const float> triangle, absl::Span<const int32_t> order) {
  const auto cols = std::ssize(order);
  const auto at = [cols](int64_t i, int64_t j) {
    const int64_t row = std::min(i, j);
    return static_cast<size_t>(row * cols - row * (row - 1) / 2 - row + std::max(i, j));
  };
  std::vector<float> out(triangle.size());
  for (int64_t i = 0; i < cols; ++i) {
    for (int64_t j = i; j < cols; ++j) {
      out[at(i, j)] = triangle[at(order[static_cast<size_t>(i)], order[static_cast<size_t>(j)])];
    }
  }
  return out;
}

void PermuteColumns(absl::Span<const float> in, int64_t cols, absl::Span<const int32_t> order, absl::Span<float> out) {
  const size_t n = static_cast<size_t>(cols);
  for (size_t row = 0; row < in.size(); row += n) {
    for (size_t i = 0; i < n; ++i) out[row + i] = in[row + static_cast<size_t>(order[i])];
  }
}

}  // namespace kompakt
