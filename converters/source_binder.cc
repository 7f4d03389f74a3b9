#include "converters/source_binder.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename... Args>
absl::Status MismatchError(const FoundTensor& found, const Args&... args) {
  return absl::FailedPreconditionError(absl::StrCat(found.file->path(), ": tensor ", found.entry->name, ": ", args...));
}

bool IsFloat(Dtype dtype) { return dtype == Dtype::kBf16 || dtype == Dtype::kF16 || dtype == Dtype::kF32; }

absl::Status CheckShape(const FoundTensor& found, std::initializer_list<int64_t> expected) {
  const std::vector<uint64_t> shape(expected.begin(), expected.end());
  if (shape == found.entry->shape) return absl::OkStatus();
  return MismatchError(found, "expected shape ", ShapeText(shape), ", found ", ShapeText(found.entry->shape));
}

// Layer number of "model.layers.N.rest", or -1.
int64_t LayerOf(absl::string_view name) {
  if (!absl::ConsumePrefix(&name, "model.layers.")) return -1;
  int64_t layer = -1;
  return absl::SimpleAtoi(name.substr(0, name.find('.')), &layer) && layer >= 0 ? layer : -1;
}

class Binder {
 public:
  Binder(const ModelSchema& schema, const SourceQuantization& quantization, const ShardSet& shards,
         const std::string& folder)
      : schema_(schema), quantization_(quantization), shards_(shards), folder_(folder) {}

  absl::StatusOr<BoundTensors> Run() && {
    for (const TensorInfo& tensor : schema_.tensors()) {
      absl::StatusOr<TensorBinding> binding = Bind(tensor);
      if (!binding.ok() && fault_.ok()) fault_ = binding.status();
      bound_.bindings.push_back(binding.ok() ? *binding : TensorBinding());
    }
    std::vector<std::string> surplus = Surplus();
    // Missing tensors say most about what is wrong; a fault of one tensor says more than what it left unused.
    if (missing_.empty() && !fault_.ok()) return fault_;
    if (!missing_.empty() || !surplus.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          folder_, ": the files do not hold the tensors that config.json calls for (expected ",
          schema_.tensors().size(), "): missing ", FirstNames(missing_), ", surplus ", FirstNames(surplus)));
    }
    return std::move(bound_);
  }

 private:
  FoundTensor Use(absl::string_view name) {
    const FoundTensor found = shards_.Find(name);
    if (found) used_.insert(found.entry);
    return found;
  }

  absl::StatusOr<TensorBinding> Bind(const TensorInfo& tensor) {
    const std::string name = tensor.Name();
    TensorBinding binding;
    binding.rows = tensor.rows;
    binding.cols = tensor.cols;
    if (const FoundTensor weight = Use(name)) {
      binding.weight = weight;
      if (tensor.is_vector()) return BindVector(binding, tensor.cols);
      KOMPAKT_RETURN_IF_ERROR(CheckShape(weight, {tensor.rows, tensor.cols}));
      return BindMatrix(std::move(binding), absl::StrCat(name, "_scale_inv"), {tensor.rows, tensor.cols});
    }
    if (!tensor.is_vector()) {
      const absl::string_view stem = absl::StripSuffix(name, ".weight");
      if (const FoundTensor packed = Use(absl::StrCat(stem, ".weight_packed"))) {
        binding.weight = packed;
        return BindInt4(std::move(binding), stem);
      }
    }
    if (tensor.expert >= 0) {
      const std::string fused = FusedName(tensor);
      if (const FoundTensor weight = Use(fused)) {
        binding.weight = weight;
        return BindFused(std::move(binding), tensor, fused);
      }
    }
    missing_.push_back(name);
    return binding;
  }

  absl::StatusOr<TensorBinding> BindVector(TensorBinding binding, int64_t n) {
    KOMPAKT_RETURN_IF_ERROR(CheckShape(binding.weight, {n}));
    KOMPAKT_RETURN_IF_ERROR(CheckFloat(binding.weight));
    return binding;
  }

  absl::Status CheckFloat(const FoundTensor& found) {
    if (IsFloat(found.entry->dtype)) return absl::OkStatus();
    return UnsupportedError(found.file->path(), ": tensor ", found.entry->name,
                            ": expected dtype BF16, F16 or F32, found ", InfoOf(found.entry->dtype).name);
  }

  struct Extent {
    int64_t rows;
    int64_t cols;
  };

  // Plain or FP8. `matrix` is the shape that the scales cover: the tensor itself, or one expert of a fused one.
  absl::StatusOr<TensorBinding> BindMatrix(TensorBinding binding, absl::string_view scale_name, Extent matrix) {
    const FoundTensor& weight = binding.weight;
    const FoundTensor scale = Use(scale_name);
    if (weight.entry->dtype != Dtype::kF8E4M3) {
      if (!IsFloat(weight.entry->dtype)) {
        return UnsupportedError(weight.file->path(), ": tensor ", weight.entry->name,
                                ": expected dtype BF16, F16, F32 or F8_E4M3, found ", InfoOf(weight.entry->dtype).name);
      }
      if (scale) {
        return MismatchError(scale, "a scale without FP8 weight: ", weight.entry->name, " is ",
                             InfoOf(weight.entry->dtype).name);
      }
      return binding;
    }
    if (!scale) {
      const FoundTensor other = shards_.Find(absl::StrCat(weight.entry->name, "_scale"));
      return MismatchError(weight, "FP8 weight without scale: expected ", scale_name, ", found ",
                           other ? absl::StrCat(other.entry->name, ", which is not read") : "none");
    }
    if (scale.entry->dtype != Dtype::kF32) {
      return MismatchError(scale, "expected FP8 scales of dtype F32, found ", InfoOf(scale.entry->dtype).name);
    }
    binding.kind = SourceKind::kFp8Block;
    binding.scale = scale;
    binding.block_rows = quantization_.block_rows;
    binding.block_cols = quantization_.block_cols;
    binding.power_of_two_scales = quantization_.power_of_two_scales;
    binding.scale_cols = CeilDiv(matrix.cols, binding.block_cols);
    const int64_t scale_rows = CeilDiv(matrix.rows, binding.block_rows);
    absl::Status shape = weight.entry->shape.size() == 2
                             ? CheckShape(scale, {scale_rows, binding.scale_cols})
                             : CheckShape(scale, {Experts(), scale_rows, binding.scale_cols});
    if (!shape.ok()) {
      return WithContext(shape, absl::StrCat("FP8 scales per ", binding.block_rows, "x", binding.block_cols, " block"));
    }
    return binding;
  }

  absl::StatusOr<TensorBinding> BindInt4(TensorBinding binding, absl::string_view stem) {
    const FoundTensor& packed = binding.weight;
    binding.kind = SourceKind::kInt4Packed;
    for (const absl::string_view companion : {".weight_zero_point", ".weight_g_idx"}) {
      if (const FoundTensor found = Use(absl::StrCat(stem, companion))) {
        return UnsupportedError(found.file->path(), ": tensor ", found.entry->name,
                                ": only symmetric INT4 without activation order is read");
      }
    }
    binding.scale = Use(absl::StrCat(stem, ".weight_scale"));
    binding.shape = Use(absl::StrCat(stem, ".weight_shape"));
    if (!binding.scale) return MismatchError(packed, "packed INT4 weight without ", stem, ".weight_scale");
    if (!binding.shape) return MismatchError(packed, "packed INT4 weight without ", stem, ".weight_shape");
    if (packed.entry->dtype != Dtype::kI32) {
      return MismatchError(packed, "expected dtype I32, found ", InfoOf(packed.entry->dtype).name);
    }
    KOMPAKT_RETURN_IF_ERROR(CheckShape(packed, {binding.rows, CeilDiv(binding.cols, 8)}));
    KOMPAKT_RETURN_IF_ERROR(CheckFloat(binding.scale));
    const Dtype shape_dtype = binding.shape.entry->dtype;
    if (shape_dtype != Dtype::kI32 && shape_dtype != Dtype::kI64) {
      return MismatchError(binding.shape, "expected dtype I32 or I64, found ", InfoOf(shape_dtype).name);
    }
    KOMPAKT_RETURN_IF_ERROR(CheckShape(binding.shape, {2}));
    return BindGroups(std::move(binding));
  }

  // The group size follows from the number of scale columns; the config must know it where it names any.
  absl::StatusOr<TensorBinding> BindGroups(TensorBinding binding) {
    const std::vector<uint64_t>& shape = binding.scale.entry->shape;
    const int64_t cols = binding.cols;
    std::vector<int64_t> sizes = quantization_.int4_groups;
    const bool plausible = shape.size() == 2 && shape[0] == static_cast<uint64_t>(binding.rows) && shape[1] >= 1 &&
                           shape[1] <= static_cast<uint64_t>(cols);
    if (sizes.empty() && plausible) sizes = {CeilDiv(cols, static_cast<int64_t>(shape[1]))};
    for (const int64_t size : sizes) {
      const int64_t group = size == 0 ? cols : size;
      if (!plausible || static_cast<uint64_t>(CeilDiv(cols, group)) != shape[1]) continue;
      binding.block_cols = group;
      binding.scale_cols = CeilDiv(cols, group);
      return binding;
    }
    const int64_t group = sizes.empty() || sizes[0] == 0 ? cols : sizes[0];
    return MismatchError(binding.scale, "expected shape ",
                         ShapeText({static_cast<uint64_t>(binding.rows), static_cast<uint64_t>(CeilDiv(cols, group))}),
                         " for groups of ", group, " columns, found ", ShapeText(shape));
  }

  int64_t Experts() const { return schema_.arch().moe().n_routed_experts(); }

  static std::string FusedName(const TensorInfo& tensor) {
    return absl::StrCat("model.layers.", tensor.layer, ".mlp.experts.",
                        tensor.role == TensorRole::kExpertDown ? "down_proj" : "gate_up_proj");
  }

  // gate_up_proj [E, 2 * moe_inter, h] with the gate rows first, down_proj [E, h, moe_inter].
  absl::StatusOr<TensorBinding> BindFused(TensorBinding binding, const TensorInfo& tensor, const std::string& name) {
    const bool down = tensor.role == TensorRole::kExpertDown;
    const Extent matrix{down ? tensor.rows : 2 * tensor.rows, tensor.cols};
    KOMPAKT_RETURN_IF_ERROR(CheckShape(binding.weight, {Experts(), matrix.rows, matrix.cols}));
    binding.matrix_row = tensor.role == TensorRole::kExpertUp ? tensor.rows : 0;
    binding.weight_row = tensor.expert * matrix.rows + binding.matrix_row;
    KOMPAKT_ASSIGN_OR_RETURN(binding, BindMatrix(std::move(binding), absl::StrCat(name, "_scale_inv"), matrix));
    if (binding.kind == SourceKind::kFp8Block) {
      binding.scale_row = tensor.expert * CeilDiv(matrix.rows, binding.block_rows);
    }
    return binding;
  }

  // What no tensor of the schema used, without the kinds that are known and skipped.
  std::vector<std::string> Surplus() {
    const ArchSpec& arch = schema_.arch();
    struct Skipped {
      int64_t tensors = 0;
      uint64_t bytes = 0;
    };
    std::map<int64_t, Skipped> mtp;
    std::vector<std::string> surplus;
    for (const auto& shard : shards_.shards()) {
      for (const SafetensorsEntry& entry : shard->entries()) {
        if (used_.contains(&entry)) continue;
        const int64_t layer = LayerOf(entry.name);
        if (layer >= arch.num_hidden_layers() && layer < arch.num_hidden_layers() + arch.num_nextn_predict_layers()) {
          ++mtp[layer].tensors;
          mtp[layer].bytes += entry.bytes();
        } else if (absl::EndsWith(entry.name, "rotary_emb.inv_freq")) {
          continue;  // derived from the config; old uploads carry it
        } else if (arch.tie_word_embeddings() && entry.name == "lm_head.weight") {
          bound_.notices.push_back(
              absl::StrCat("lm_head.weight is skipped: tie_word_embeddings says that the head is the embedding"));
        } else {
          surplus.push_back(entry.name);
        }
      }
    }
    for (const auto& [layer, skipped] : mtp) {
      bound_.notices.push_back(absl::StrCat("MTP layer ", layer, " is not part of the main model: ", skipped.tensors,
                                            " tensors, ", skipped.bytes, " bytes skipped"));
    }
    if (mtp.empty() && arch.num_nextn_predict_layers() > 0) {
      bound_.notices.push_back(
          absl::StrCat("config.json names ", arch.num_nextn_predict_layers(), " MTP layers, the files hold none"));
    }
    std::sort(surplus.begin(), surplus.end());
    return surplus;
  }

  const ModelSchema& schema_;
  const SourceQuantization& quantization_;
  const ShardSet& shards_;
  const std::string& folder_;
  BoundTensors bound_;
  std::vector<std::string> missing_;
  absl::Status fault_;  // the first one
  absl::flat_hash_set<const SafetensorsEntry*> used_;
};

}  // namespace

absl::StatusOr<BoundTensors> BindTensors(const ModelSchema& schema, const SourceQuantization& quantization,
                                         const ShardSet& shards, const std::string& folder) {
  return Binder(schema, quantization, shards, folder).Run();
}

}  // namespace kompakt
