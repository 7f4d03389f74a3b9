#include "quant/moments.h"

#include <algorithm>

#include "format/status.h"
#include "quant/calibration_file.h"

namespace kompakt {
namespace {

constexpr int64_t kPieceChannels = 256;
// Rows and columns of the triangle that one task adds up: its sums stay in the first cache.
constexpr int64_t kBlockRows = 4;
constexpr int64_t kBlockCols = 512;

// Where row i of the triangle begins, less i: element (i, j) is at RowBase(i) + j.
int64_t RowBase(int64_t i, int64_t width) { return i * width - i * (i - 1) / 2 - i; }

}  // namespace

uint64_t Moments::BytesFor(int64_t width, bool matrix) {
  return static_cast<uint64_t>(matrix ? TriangleSize(width) : width) * sizeof(double);
}

absl::StatusOr<Moments> Moments::Create(int64_t width, bool matrix) {
  Moments moments;
  moments.width_ = width;
  moments.matrix_ = matrix;
  KOMPAKT_ASSIGN_OR_RETURN(moments.sums_, AlignedBuffer::Create(BytesFor(width, matrix), "statistics of a layer"));
  return moments;
}

void Moments::Add(const LinearInput& input, KernelContext& context) {
  auto* const sums = reinterpret_cast<double*>(sums_.data());
  tokens_ += input.tokens;
  if (!matrix_) {
    context.RunPieces(width_, kPieceChannels, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = 0; t < input.tokens; ++t) {
        const float* const x = input.x + t * input.x_stride;
        for (int64_t c = begin; c < end; ++c) sums[c] += static_cast<double>(x[c]) * static_cast<double>(x[c]);
      }
    });
    return;
  }
  context.RunPieces(width_, kBlockRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t from = begin; from < width_; from += kBlockCols) {
      const int64_t to = std::min(width_, from + kBlockCols);
      for (int64_t t = 0; t < input.tokens; ++t) {
        const float* const x = input.x + t * input.x_stride;
        for (int64_t i = begin; i < end; ++i) {
          double* const row = sums + RowBase(i, width_);
          const auto own = static_cast<double>(x[i]);
          for (int64_t j = std::max(from, i); j < to; ++j) row[j] += own * static_cast<double>(x[j]);
        }
      }
    }
  });
}

std::vector<float> Moments::MeanSquares() const {
  std::vector<float> means(static_cast<size_t>(width_), 0.0f);
  if (tokens_ == 0) return means;
  const auto* const sums = reinterpret_cast<const double*>(sums_.data());
  for (int64_t c = 0; c < width_; ++c) {
    const double sum = sums[matrix_ ? RowBase(c, width_) + c : c];
    means[static_cast<size_t>(c)] = static_cast<float>(sum / static_cast<double>(tokens_));
  }
  return means;
}

std::vector<float> Moments::Triangle() const {
  std::vector<float> triangle(matrix_ ? static_cast<size_t>(TriangleSize(width_)) : 0, 0.0f);
  if (tokens_ == 0) return triangle;
  const auto* const sums = reinterpret_cast<const double*>(sums_.data());
  for (size_t i = 0; i < triangle.size(); ++i) {
    triangle[i] = static_cast<float>(sums[i] / static_cast<double>(tokens_));
  }
  return triangle;
}

}  // namespace kompakt
