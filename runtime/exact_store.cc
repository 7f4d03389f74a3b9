#include "runtime/exact_store.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "format/status.h"
#include "kernels/workspace.h"

namespace kompakt {
namespace {

// Rows read at a time: a multiple of every block and tile height.
constexpr int64_t kRowsAtOnce = 1024;

struct Tensor {
  const BlockFormat* format = nullptr;
  BlobLayout layout;
  uint64_t offset = 0;  // in the store's buffer
};

class ExactStore : public WeightStore {
 public:
  ExactStore(ModelSchema schema, std::string origin) : schema_(std::move(schema)), origin_(std::move(origin)) {}

  const std::string& origin() const override { return origin_; }
  const ModelSchema& schema() const override { return schema_; }

  absl::StatusOr<MatrixView> Matrix(const TensorInfo& info) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const Tensor* const tensor, Find(info));
    if (info.is_vector()) return absl::InternalError(absl::StrCat(info.Name(), ": a vector, asked for as a matrix"));
    return ViewOf(info, *tensor);
  }

  absl::StatusOr<std::vector<float>> Vector(const TensorInfo& info) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const Tensor* const tensor, Find(info));
    if (!info.is_vector()) return absl::InternalError(absl::StrCat(info.Name(), ": a matrix, asked for as a vector"));
    std::vector<float> values(static_cast<size_t>(info.cols));
    DecodeVector(*tensor->format, bytes_.data() + tensor->offset, info.cols, absl::MakeSpan(values));
    return values;
  }

  // Chooses formats and places; takes the memory.
  absl::Status Plan(const TensorSource& source);
  absl::Status Read(const TensorSource& source, int64_t index);

 private:
  absl::StatusOr<const Tensor*> Find(const TensorInfo& info) const {
    const int64_t index = schema_.Find(info.role, info.layer, info.expert);
    if (index < 0) return absl::InternalError(absl::StrCat(info.Name(), ": not a tensor of this model"));
    return &tensors_[static_cast<size_t>(index)];
  }
  MatrixView ViewOf(const TensorInfo& info, const Tensor& tensor) const {
    return {.format = tensor.format,
            .shape = {info.rows, info.cols},
            .layout = tensor.layout,
            .data = bytes_.data() + tensor.offset};
  }
  absl::Status ReadMatrix(const TensorSource& source, const TensorInfo& info, const Tensor& tensor);

  ModelSchema schema_;
  std::string origin_;
  std::vector<Tensor> tensors_;  // by index of schema_
  AlignedBuffer bytes_;
};

absl::Status ExactStore::Plan(const TensorSource& source) {
  uint64_t total = 0;
  for (const TensorInfo& info : schema_.tensors()) {
    KOMPAKT_ASSIGN_OR_RETURN(const StoredForm form, source.Form(info));
    Tensor tensor;
    tensor.format = &FormatOf(form.exact_format);
    KOMPAKT_ASSIGN_OR_RETURN(tensor.layout, info.is_vector() ? LayoutOfVector(*tensor.format, info.cols)
                                                             : LayoutOfMatrix(*tensor.format, {info.rows, info.cols}));
    tensor.offset = total;
    if (__builtin_add_overflow(total, tensor.layout.total_bytes, &total)) {
      return absl::OutOfRangeError(absl::StrCat(origin_, ": the weights take more than 2^64 bytes"));
    }
    tensors_.push_back(tensor);
  }
  KOMPAKT_ASSIGN_OR_RETURN(bytes_, AlignedBuffer::Create(total, absl::StrCat(origin_, ": weights")));
  return absl::OkStatus();
}

absl::Status ExactStore::ReadMatrix(const TensorSource& source, const TensorInfo& info, const Tensor& tensor) {
  uint8_t* const blob = bytes_.data() + tensor.offset;
  auto* side = reinterpret_cast<float*>(blob + tensor.layout.side_offset);
  for (int64_t begin = 0; begin < info.rows; begin += kRowsAtOnce) {
    const int64_t end = std::min(info.rows, begin + kRowsAtOnce);
    KOMPAKT_ASSIGN_OR_RETURN(const StoredRows rows, source.ReadStored(info, begin, end));
    if (rows.format != tensor.format->id || rows.rows != end - begin || rows.cols != info.cols) {
      return absl::InternalError(absl::StrCat(info.Name(), ": the source gave other rows than it announced"));
    }
    PackTiles(rows, blob + static_cast<uint64_t>(begin / kTileRows) * tensor.layout.row_tile_bytes(*tensor.format));
    const absl::Span<const float> band_side = rows.SideOfBand(begin);
    side = std::copy(band_side.begin(), band_side.end(), side);
  }
  return absl::OkStatus();
}

absl::Status ExactStore::Read(const TensorSource& source, int64_t index) {
  const TensorInfo& info = schema_.tensors()[static_cast<size_t>(index)];
  const Tensor& tensor = tensors_[static_cast<size_t>(index)];
  if (!info.is_vector()) return ReadMatrix(source, info, tensor);
  KOMPAKT_ASSIGN_OR_RETURN(const StoredRows rows, source.ReadStored(info, 0, 1));
  if (rows.format != tensor.format->id || rows.elements.size() > tensor.layout.total_bytes) {
    return absl::InternalError(absl::StrCat(info.Name(), ": the source gave other elements than it announced"));
  }
  std::memcpy(bytes_.data() + tensor.offset, rows.elements.data(), rows.elements.size());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const WeightStore>> LoadExactWeights(const TensorSource& source,
                                                                    const std::string& origin, int threads) {
  auto store = std::make_shared<ExactStore>(source.schema(), origin);
  KOMPAKT_RETURN_IF_ERROR(store->Plan(source));
  const int64_t count = std::ssize(store->schema().tensors());
  absl::Status status;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t i = 0; i < count; ++i) {
    bool failed = false;
#pragma omp critical(kompakt_exact_store)
    failed = !status.ok();
    if (failed) continue;
    absl::Status read;
    // An exception must not leave a thread of the loop.
    try {
      read = store->Read(source, i);
    } catch (const std::bad_alloc&) {
      read = absl::ResourceExhaustedError(absl::StrCat(origin, ": no memory left while reading tensors"));
    }
#pragma omp critical(kompakt_exact_store)
    if (!read.ok() && status.ok()) status = read;
  }
  if (!status.ok()) return status;
  return store;
}

}  // namespace kompakt
