#include "quant/feedback_plan.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <new>
#include <utility>

#include "format/status.h"
#include "quant/encode_table.h"
#include "quant/encoder.h"

namespace kompakt {
namespace {

// Gate, up and down of the kinds of FFN.
constexpr std::array<TensorRole, 3> kFfns[] = {
    {TensorRole::kDenseGate, TensorRole::kDenseUp, TensorRole::kDenseDown},
    {TensorRole::kExpertGate, TensorRole::kExpertUp, TensorRole::kExpertDown},
    {TensorRole::kSharedGate, TensorRole::kSharedUp, TensorRole::kSharedDown},
};

const std::array<TensorRole, 3>* FfnOf(TensorRole role) {
  for (const std::array<TensorRole, 3>& ffn : kFfns) {
    if (std::find(ffn.begin(), ffn.end(), role) != ffn.end()) return &ffn;
  }
  return nullptr;
}

}  // namespace

void BlendMoments(absl::Span<float> triangle, int64_t cols, double n, absl::Span<const float> q, double damping) {
  double mean = 0;
  for (int64_t i = 0, at = 0; i < cols; at += cols - i, ++i) {
    mean += static_cast<double>(triangle[static_cast<size_t>(at)]) / static_cast<double>(cols);
  }
  const double own = n > 0 && mean > 0 ? n / (n + kPriorTokens) : 0;
  const double scale = own > 0 ? own / mean : 0;
  size_t at = 0;
  for (int64_t i = 0; i < cols; ++i) {
    const double prior = q.empty() ? 1.0 : static_cast<double>(q[static_cast<size_t>(i)]);
    const double blended = scale * static_cast<double>(triangle[at]) + (1 - own) * prior;
    triangle[at++] = static_cast<float>(std::max(blended, kLeastImportance) + damping);
    for (int64_t j = i + 1; j < cols; ++j, ++at) {
      triangle[at] = static_cast<float>(scale * static_cast<double>(triangle[at]));
    }
  }
}

absl::StatusOr<std::unique_ptr<const FeedbackPlan>> FeedbackPlan::Create(const Importance& importance,
                                                                         const ModelSchema& schema,
                                                                         std::vector<TensorForm> forms, double damping,
                                                                         const std::atomic<bool>* interrupted) {
  if (!importance.file().has_matrices()) {
    return UsageError(importance.file().path(),
                      " holds no second moments, which error feedback needs; make it with kompakt calibrate --hessian");
  }
  if (!(damping >= kLeastDamping) || !(damping <= kMostDamping)) {
    return UsageError("error feedback: expected a damping from ", kLeastDamping, " to ", kMostDamping, ", found ",
                      damping);
  }
  return std::unique_ptr<const FeedbackPlan>(
      new FeedbackPlan(importance, schema, std::move(forms), damping, interrupted));
}

const TensorForm& FeedbackPlan::FormOf(const TensorInfo& tensor) const {
  return forms_[static_cast<size_t>(schema_.Find(tensor.role, tensor.layer, tensor.expert))];
}

int64_t FeedbackPlan::InputOf(const TensorInfo& tensor) const {
  const TensorForm& form = FormOf(tensor);
  if (form.exact || FindTableFormat(form.format) == nullptr) return -1;
  const CalibrationFile& file = importance_.file();
  const int64_t row = file.FindMatrix(schema_.arch(), tensor);
  if (row < 0) return -1;
  const CalibrationRow& found = file.rows()[static_cast<size_t>(row)];
  // Never seen: its H would be diagonal.
  return found.tokens > 0 && found.width == tensor.cols ? row : -1;
}

absl::StatusOr<FactorCache::Shared> FeedbackPlan::FactorOf(const TensorInfo& tensor) const {
  const int64_t row = InputOf(tensor);
  if (row < 0) return FactorCache::Shared();
  absl::StatusOr<FactorCache::Shared> factor = factors_.Get(row, [&]() -> absl::StatusOr<FeedbackFactor> {
    try {
      return MakeFactor(tensor, row);
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError(absl::StrCat("no memory for second moments of ", tensor.cols, " channels"));
    }
  });
  if (!factor.ok() && !absl::IsCancelled(factor.status())) {
    return WithContext(factor.status(), absl::StrCat(importance_.file().path(), ", for ", tensor.Name()));
  }
  return factor;
}

absl::StatusOr<FeedbackFactor> FeedbackPlan::MakeFactor(const TensorInfo& tensor, int64_t row) const {
  const CalibrationFile& file = importance_.file();
  const CalibrationRow& info = file.rows()[static_cast<size_t>(row)];
  std::vector<float> triangle;
  KOMPAKT_RETURN_IF_ERROR(file.ReadMatrix(row, &triangle));
  BlendMoments(absl::MakeSpan(triangle), tensor.cols, static_cast<double>(info.tokens), importance_.PriorOf(row),
               damping_);
  if (ReordersColumns(tensor)) {
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> order, OrderOf(tensor));
    triangle = PermuteTriangle(triangle, order);
  }
  return FeedbackFactor::Create(std::move(triangle), tensor.cols, interrupted_);
}

int64_t FeedbackPlan::DownOfReordered(const TensorInfo& tensor) const {
  const std::array<TensorRole, 3>* const ffn = FfnOf(tensor.role);
  if (ffn == nullptr) return -1;
  int64_t index = -1;
  for (const TensorRole role : *ffn) {
    index = schema_.Find(role, tensor.layer, tensor.expert);
    if (index < 0 || forms_[static_cast<size_t>(index)].exact) return -1;
  }
  return InputOf(schema_.tensors()[static_cast<size_t>(index)]) >= 0 ? index : -1;
}

bool FeedbackPlan::ReordersRows(const TensorInfo& tensor) const {
  const std::array<TensorRole, 3>* const ffn = FfnOf(tensor.role);
  return ffn != nullptr && tensor.role != ffn->back() && DownOfReordered(tensor) >= 0;
}

bool FeedbackPlan::ReordersColumns(const TensorInfo& tensor) const {
  const std::array<TensorRole, 3>* const ffn = FfnOf(tensor.role);
  return ffn != nullptr && tensor.role == ffn->back() && DownOfReordered(tensor) >= 0;
}

absl::StatusOr<std::vector<int32_t>> FeedbackPlan::OrderOf(const TensorInfo& tensor) const {
  const int64_t down = DownOfReordered(tensor);
  if (down < 0) return absl::InternalError(absl::StrCat(tensor.Name(), " is not reordered"));
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<float> importance,
                           importance_.Of(schema_.tensors()[static_cast<size_t>(down)]));
  return ActivationOrder(importance);
}

uint64_t FeedbackPlan::BytesPerWorker(const TensorInfo& tensor) const {
  // An order, and the rows that it is found from.
  const uint64_t order = 16 * static_cast<uint64_t>(tensor.rows + tensor.cols);
  return InputOf(tensor) >= 0 ? FeedbackFactor::BytesWhileMade(tensor.cols) + order : order;
}

uint64_t FeedbackPlan::SharedBytes() const {
  uint64_t most = 0;
  for (const TensorInfo& tensor : schema_.tensors()) {
    if (InputOf(tensor) >= 0) most = std::max(most, FeedbackFactor::BytesFor(tensor.cols));
  }
  return most + forms_.size() * sizeof(TensorForm);
}

}  // namespace kompakt
