// Error feedback: the rounding error of a weight is made good by the weights to its right (GPTQ, Frantar et al. 2022;
// in the form LDLQ of Chee et al., QuIP, 2023, section 3).
//
// For inputs x with the second moments H = E[x x^T], row errors E = W - decoded cost tr(E H E^T). With H = M D M^T, M
// upper triangular with ones on its diagonal, that is, row by row, the sum over columns k of
//     D_k t_k^2,    t_k = sum over j <= k of e_j M_jk.
// So column k is encoded as w_k + sum over j < k of e_j M_jk: what is left is t_k. M = 1 where H is diagonal.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/encoder.h"

namespace kompakt {

// M and D of one matrix H. Immutable; threads may share it.
class FeedbackFactor {
 public:
  // triangle: the upper one of H by rows, cols (cols + 1) / 2 values, damped so that H is positive definite. In F32;
  // about cols^3 / 6 multiplications on one core. `interrupted` (may be null) set: stops with kCancelled.
  // kInvalidArgument for a size that does not fit; kDataLoss naming the column where H is not finite or not positive
  // definite; kResourceExhausted.
  static absl::StatusOr<FeedbackFactor> Create(std::vector<float> triangle, int64_t cols,
                                               const std::atomic<bool>* interrupted = nullptr);
  // From all of H: [cols][cols], symmetric; what lies below the diagonal is not read.
  static absl::StatusOr<FeedbackFactor> FromMatrix(absl::Span<const float> h, int64_t cols);

  // Upper bounds: of one factor, and of what making one takes, the factor and the triangle included.
  static uint64_t BytesFor(int64_t cols);
  static uint64_t BytesWhileMade(int64_t cols);

  int64_t cols() const { return cols_; }
  // Of H, and of D.
  absl::Span<const float> diagonal() const { return diagonal_; }
  absl::Span<const float> d() const { return absl::MakeSpan(d_).first(static_cast<size_t>(cols_)); }
  float At(int64_t j, int64_t k) const;  // M

  uint64_t bytes() const { return (packed_.size() + d_.size() + diagonal_.size()) * sizeof(float); }

 private:
  friend absl::Status EncodeRowTileWithFeedback(FormatId, SearchEffort, const RowTile&, const FeedbackFactor&,
                                                EncoderScratch&, absl::Span<uint8_t>, absl::Span<float>, TileError*);
  int64_t cols_ = 0;
  std::vector<float> packed_;  // feedback_view.h
  std::vector<float> d_;       // zeros behind
  std::vector<float> diagonal_;
};

// As EncodeRowTile with the diagonal of H for importance (`in.importance` is not looked at), then with feedback; each
// row keeps what has the smaller tr(E H E^T). Where H is diagonal, that is the result of EncodeRowTile, byte for byte.
// A format without a table (q8_g32, casts) gets no feedback. kInvalidArgument also when the factor has another width.
absl::Status EncodeRowTileWithFeedback(FormatId format, SearchEffort effort, const RowTile& in,
                                       const FeedbackFactor& factor, EncoderScratch& scratch, absl::Span<uint8_t> tiles,
                                       absl::Span<float> row_scales, TileError* error);

// Columns in the order in which feedback does best: the largest mean squares first, equal ones as they are. Of a down
// projection the columns are the intermediate channels, which may have any order, if gate and up have their rows in the
// same one: the model is the same function. order[i] is the channel that comes to place i.
std::vector<int32_t> ActivationOrder(absl::Span<const float> mean_squares);
// The triangle of H with rows and columns in that order.
std::vector<float> PermuteTriangle(absl::Span<const float> triangle, absl::Span<const int32_t> order);
// Column i of `out` is column order[i] of `in`. [rows, cols] row-major both.
void PermuteColumns(absl::Span<const float> in, int64_t cols, absl::Span<const int32_t> order, absl::Span<float> out);

}  // namespace kompakt
