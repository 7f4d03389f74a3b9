#include "runtime/overlay_store.h"

#include <map>
#include <utility>

#include "format/status.h"

namespace kompakt {
namespace {

class OverlayStore : public WeightStore {
 public:
  explicit OverlayStore(std::shared_ptr<const WeightStore> base) : base_(std::move(base)) {}

  const std::string& origin() const override { return base_->origin(); }
  const ModelSchema& schema() const override { return base_->schema(); }

  absl::StatusOr<MatrixView> Matrix(const TensorInfo& tensor) const override {
    const auto found = replaced_.find(schema().Find(tensor.role, tensor.layer, tensor.expert));
    if (found == replaced_.end()) return base_->Matrix(tensor);
    MatrixView view = found->second.view;
    view.data = found->second.blob.data();
    return view;
  }
  absl::StatusOr<std::vector<float>> Vector(const TensorInfo& tensor) const override { return base_->Vector(tensor); }

  absl::Status Replace(MatrixReplacement replacement) {
    const TensorInfo& tensor = replacement.tensor;
    const int64_t index = schema().Find(tensor.role, tensor.layer, tensor.expert);
    if (index < 0 || tensor.is_vector()) return UsageError(tensor.Name(), ": expected a matrix of the model");
    const TensorInfo& info = schema().tensors()[static_cast<size_t>(index)];
    Entry entry;
    entry.view.format = &FormatOf(replacement.format);
    entry.view.shape = {info.rows, info.cols};
    KOMPAKT_ASSIGN_OR_RETURN(entry.view.layout, LayoutOfMatrix(*entry.view.format, entry.view.shape));
    if (entry.view.layout.total_bytes != replacement.blob.size()) {
      return UsageError(info.Name(), ": expected ", entry.view.layout.total_bytes, " bytes in ",
                        entry.view.format->name, ", found ", replacement.blob.size());
    }
    entry.blob = std::move(replacement.blob);
    if (!replaced_.try_emplace(index, std::move(entry)).second) {
      return UsageError(info.Name(), ": expected one replacement, found two");
    }
    return absl::OkStatus();
  }

 private:
  struct Entry {
    MatrixView view;  // without its data
    std::vector<uint8_t> blob;
  };
  std::shared_ptr<const WeightStore> base_;
  std::map<int64_t, Entry> replaced_;  // by index of the schema
};

}  // namespace

absl::StatusOr<std::shared_ptr<const WeightStore>> OverlayWeights(std::shared_ptr<const WeightStore> base,
                                                                  std::vector<MatrixReplacement> replacements) {
  auto store = std::make_shared<OverlayStore>(std::move(base));
  for (MatrixReplacement& replacement : replacements) {
    KOMPAKT_RETURN_IF_ERROR(store->Replace(std::move(replacement)));
  }
  return std::shared_ptr<const WeightStore>(std::move(store));
}

}  // namespace kompakt
