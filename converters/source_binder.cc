#include "converters/source_binder.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "converters/element_reads.h"
#include "converters/source_forms.h"
#include "format/arch_spec.h"
#include "format/status.h"

namespace kompakt {
namespace {

// Layer number of "model.layers.N.rest", or -1.
int64_t LayerOf(absl::string_view name) {
  if (!absl::ConsumePrefix(&name, "model.layers.")) return -1;
  int64_t layer = -1;
  return absl::SimpleAtoi(name.substr(0, name.find('.')), &layer) && layer >= 0 ? layer : -1;
}

// In an MTP layer, after "model.layers.L.".
constexpr char kEmbedCopy[] = "embed_tokens.weight";
constexpr char kHeadCopy[] = "shared_head.head.weight";

class Binder {
 public:
  Binder(const ModelSchema& schema, const SourceQuantization& quantization, const ShardSet& shards,
         const std::string& folder)
      : schema_(schema), quantization_(quantization), shards_(shards), folder_(folder) {}

  absl::StatusOr<BoundTensors> Run() && {
    for (const TensorInfo& tensor : schema_.tensors()) {
      absl::StatusOr<BoundModule> module = Bind(tensor);
      if (!module.ok()) {
        if (fault_.ok()) fault_ = module.status();
        bound_.tensors.push_back(nullptr);
        continue;
      }
      for (const FoundTensor& used : module->used) used_.insert(used.entry);
      bound_.quantized = bound_.quantized || module->used.size() > 1;
      if (tensor.role == TensorRole::kRouterBias && module->used.size() == 1 &&
          module->used[0].entry->dtype != Dtype::kF32) {
        bound_.short_biases.push_back(module->used[0]);
      }
      bound_.tensors.push_back(std::move(module->tensor));
    }
    if (absl::Status copies = BindCopies(); !copies.ok() && fault_.ok()) fault_ = copies;
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
  // A tensor that is missing is noted and gives a module without one.
  absl::StatusOr<BoundModule> Bind(const TensorInfo& tensor) {
    const std::string name = tensor.Name();
    if (tensor.is_vector()) {
      if (const FoundTensor found = shards_.Find(name)) return BindVector(found, tensor.cols);
    } else {
      ModuleRequest request{&shards_, &quantization_, std::string(absl::StripSuffix(name, ".weight")),
                            MatrixShape{tensor.rows, tensor.cols}};
      KOMPAKT_ASSIGN_OR_RETURN(const SourceForm* const form, FindSourceForm(request));
      if (form != nullptr) return BindModule(request);
      if (tensor.expert >= 0) {
        request.module = FusedName(tensor);
        if (shards_.Find(request.module)) return BindFused(request, SliceOf(tensor));
      }
    }
    missing_.push_back(name);
    return BoundModule();
  }

  int64_t Experts() const { return schema_.arch().moe().n_routed_experts(); }

  static std::string FusedName(const TensorInfo& tensor) {
    return absl::StrCat("model.layers.", tensor.layer, ".mlp.experts.",
                        tensor.role == TensorRole::kExpertDown ? "down_proj" : "gate_up_proj");
  }

  // gate_up_proj [E, 2 * moe_inter, h] with the gate rows first, down_proj [E, h, moe_inter].
  FusedSlice SliceOf(const TensorInfo& tensor) const {
    const bool down = tensor.role == TensorRole::kExpertDown;
    return {.matrices = Experts(),
            .index = tensor.expert,
            .matrix_rows = down ? tensor.rows : 2 * tensor.rows,
            .first_row = tensor.role == TensorRole::kExpertUp ? tensor.rows : 0};
  }

  // The MTP layers' copies of embedding and head: the same form as what they are copies of. Not every upload has them.
  absl::Status BindCopies() {
    const ArchSpec& arch = schema_.arch();
    const TensorRole head = arch.tie_word_embeddings() ? TensorRole::kEmbedTokens : TensorRole::kLmHead;
    for (int64_t layer = arch.num_hidden_layers(); layer < LayerCount(arch); ++layer) {
      for (const auto& [name, role] : {std::pair<const char*, TensorRole>{kEmbedCopy, TensorRole::kEmbedTokens},
                                       std::pair<const char*, TensorRole>{kHeadCopy, head}}) {
        const FoundTensor copy = shards_.Find(absl::StrCat("model.layers.", layer, ".", name));
        if (!copy) continue;
        used_.insert(copy.entry);
        const int64_t of = schema_.Find(role);
        const std::string original_name = schema_.tensors()[static_cast<size_t>(of)].Name();
        const FoundTensor original = shards_.Find(original_name);
        if (!original || copy.entry->dtype != original.entry->dtype || copy.entry->shape != original.entry->shape) {
          return MismatchError(copy, "expected a copy of ", original_name,
                               original ? absl::StrCat(" (", InfoOf(original.entry->dtype).name, " ",
                                                       ShapeText(original.entry->shape), ")")
                                        : ", which is not stored as it is",
                               ", found ", InfoOf(copy.entry->dtype).name, " ", ShapeText(copy.entry->shape));
        }
        bound_.copies.push_back({copy, original, static_cast<size_t>(of)});
      }
    }
    return absl::OkStatus();
  }

  // What the files' MTP layers hold, by the schema that they would have if they were kept.
  int64_t StoredMtpParameters() const {
    ArchSpec arch = schema_.arch();
    arch.set_mtp_layers(arch.num_nextn_predict_layers());
    const absl::StatusOr<ModelSchema> whole = ModelSchema::Create(arch);
    if (!whole.ok()) return 0;
    int64_t parameters = whole->parameter_count() - whole->main_parameter_count();
    for (int64_t layer = arch.num_hidden_layers(); layer < LayerCount(arch); ++layer) {
      for (const char* const name : {kEmbedCopy, kHeadCopy}) {
        const bool found = static_cast<bool>(shards_.Find(absl::StrCat("model.layers.", layer, ".", name)));
        if (found) parameters += arch.vocab_size() * arch.hidden_size();
      }
    }
    return parameters;
  }

  // What no tensor of the schema used, without the kinds that are known and skipped.
  std::vector<std::string> Surplus() {
    const ArchSpec& arch = schema_.arch();
    struct Skipped {
      int64_t tensors = 0;
      uint64_t bytes = 0;
    };
    std::map<int64_t, Skipped> mtp;
    const int64_t layers = LayerCount(arch);  // those of the schema
    std::vector<std::string> surplus;
    for (const auto& shard : shards_.shards()) {
      for (const SafetensorsEntry& entry : shard->entries()) {
        if (used_.contains(&entry)) continue;
        const int64_t layer = LayerOf(entry.name);
        if (layer >= layers && layer < arch.num_hidden_layers() + arch.num_nextn_predict_layers()) {
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
    if (!mtp.empty() || arch.mtp_layers() > 0) bound_.mtp_parameters = StoredMtpParameters();
    if (mtp.empty() && arch.num_nextn_predict_layers() > arch.mtp_layers()) {
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
