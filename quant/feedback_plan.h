// FeedbackPlan: which tensors of a conversion get error feedback, with which second moments, and in which order the
// inner channels of an FFN are stored (docs/quantization.md, "With error feedback").
//
// Of an input that saw n tokens, with the second moments S scaled so that their mean diagonal is 1,
//     H = own S + (1 - own) diag(q) + damping 1,    own = n / (n + kPriorTokens)
// where q stands in for tokens that were not seen, as in importance.h; diagonal elements below kLeastImportance are
// raised to it before the damping. So few tokens give an H that is nearly diagonal, which is the weighted search.
//
// The inner channels of an FFN are stored in activation order, the largest importance first: the columns of down, and
// the rows of gate and up alike. It is done where down gets feedback and all three are encoded; every expert has its
// own order. The order follows from the calibration, so whoever has that finds it again.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/factor_cache.h"
#include "quant/importance.h"

namespace kompakt {

inline constexpr double kDefaultDamping = 0.01;
inline constexpr double kLeastDamping = 1e-6, kMostDamping = 1;

// What a conversion makes of a tensor.
struct TensorForm {
  FormatId format = FormatId::kF32;
  bool exact = false;
};

class FeedbackPlan {
 public:
  // `forms`: per tensor of `schema`. kInvalidArgument when the calibration has no second moments. `interrupted` (may be
  // null) set: FactorOf and whoever asks stops. All must outlive the plan.
  static absl::StatusOr<std::unique_ptr<const FeedbackPlan>> Create(const Importance& importance,
                                                                    const ModelSchema& schema,
                                                                    std::vector<TensorForm> forms, double damping,
                                                                    const std::atomic<bool>* interrupted = nullptr);

  // The row of the calibration whose second moments this tensor's feedback takes; -1: it gets none.
  int64_t InputOf(const TensorInfo& tensor) const;
  // Null where it gets none. The columns are in the order of ColumnOrder. Reads the calibration; safe from several
  // threads, each of which must let go of the factor that it holds first.
  absl::StatusOr<FactorCache::Shared> FactorOf(const TensorInfo& tensor) const;

  bool ReordersRows(const TensorInfo& tensor) const;
  bool ReordersColumns(const TensorInfo& tensor) const;
  // order[i] is the row, or column, of the source that is stored at place i. Of tensors that are reordered.
  absl::StatusOr<std::vector<int32_t>> OrderOf(const TensorInfo& tensor) const;

  bool Interrupted() const { return interrupted_ != nullptr && interrupted_->load(); }

  // Memory: what each worker may hold while it encodes this tensor, and what is kept for all.
  uint64_t BytesPerWorker(const TensorInfo& tensor) const;
  uint64_t SharedBytes() const;

 private:
  FeedbackPlan(const Importance& importance, const ModelSchema& schema, std::vector<TensorForm> forms, double damping,
               const std::atomic<bool>* interrupted)
      : importance_(importance),
        schema_(schema),
        forms_(std::move(forms)),
        damping_(damping),
        interrupted_(interrupted) {}
  const TensorForm& FormOf(const TensorInfo& tensor) const;
  // Of the FFN that `tensor` is part of; -1: its channels stay as they are, or it is none.
  int64_t DownOfReordered(const TensorInfo& tensor) const;
  absl::StatusOr<FeedbackFactor> MakeFactor(const TensorInfo& tensor, int64_t row) const;

  const Importance& importance_;
  const ModelSchema& schema_;
  const std::vector<TensorForm> forms_;
  const double damping_;
  const std::atomic<bool>* const interrupted_;
  mutable FactorCache factors_;
};

// The formula, in place. triangle: the upper one of S by rows, in any scale; q: with mean 1, or empty for all ones.
void BlendMoments(absl::Span<float> triangle, int64_t cols, double n, absl::Span<const float> q, double damping);

}  // namespace kompakt
