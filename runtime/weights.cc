#include "runtime/weights.h"

#include <utility>

namespace kompakt {
namespace {

class PackedStore : public WeightStore {
 public:
  explicit PackedStore(std::shared_ptr<const PackedReader> file) : file_(std::move(file)) {}

  const std::string& origin() const override { return file_->path(); }
  const ModelSchema& schema() const override { return file_->schema(); }
  absl::StatusOr<MatrixView> Matrix(const TensorInfo& tensor) const override { return file_->Matrix(tensor); }
  absl::StatusOr<std::vector<float>> Vector(const TensorInfo& tensor) const override { return file_->Vector(tensor); }

 private:
  std::shared_ptr<const PackedReader> file_;
};

}  // namespace

std::shared_ptr<const WeightStore> PackedWeights(std::shared_ptr<const PackedReader> file) {
  return std::make_shared<PackedStore>(std::move(file));
}

}  // namespace kompakt
