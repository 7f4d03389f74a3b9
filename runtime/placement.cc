#include "runtime/placement.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "format/arch_spec.h"
#include "format/device_error.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kDeviceAlign = 256;
// Of the memory that is left when some experts have to stay on the host, this part becomes slots.
constexpr uint64_t kSlotShare = 4;

uint64_t Aligned(uint64_t bytes) { return (bytes + kDeviceAlign - 1) / kDeviceAlign * kDeviceAlign; }

absl::StatusOr<uint64_t> BytesOnDevice(const TensorInfo& tensor, FormatId format) {
  if (tensor.role == TensorRole::kKvBProj && KvBIsWidened(format)) format = FormatId::kF32;
  if (tensor.is_vector()) return Aligned(static_cast<uint64_t>(tensor.cols) * sizeof(float));
  KOMPAKT_ASSIGN_OR_RETURN(const BlobLayout layout, LayoutOfMatrix(FormatOf(format), {tensor.rows, tensor.cols}));
  return Aligned(layout.total_bytes);
}

absl::Status TooSmall(uint64_t budget, const std::string& what, uint64_t needed) {
  return DeviceError("device memory: ", budget, " bytes may be used, ", what, " need ", needed);
}

// Fills in what lies where, given the first layer on the device; false when that does not fit.
bool PlaceFrom(const ModelBytes& model, const PlacementRequest& request, int64_t first, Placement* out) {
  const auto layers = static_cast<int64_t>(model.layers.size());
  *out = Placement();
  out->layers.resize(model.layers.size());
  out->first_device_layer = first;
  out->working_bytes = request.working_bytes;
  out->weight_bytes = model.head_bytes;
  for (int64_t l = 0; l < layers; ++l) {
    const ModelBytes::Layer& bytes = model.layers[static_cast<size_t>(l)];
    Placement::Layer& place = out->layers[static_cast<size_t>(l)];
    place.on_device = l >= first;
    if (bytes.experts > 0) place.experts = Placement::Experts::kHost;
    if (!place.on_device) continue;
    out->weight_bytes += bytes.fixed_bytes;
    const uint64_t token_bytes = request.cache_token_bytes + (bytes.has_indexer ? request.index_token_bytes : 0);
    out->cache_bytes += token_bytes * static_cast<uint64_t>(request.context);
  }
  return out->total_bytes() <= request.budget_bytes;
}

// Gives what is left to experts: whole layers of them from the last layer down, and slots where not all find room.
void PlaceExperts(const ModelBytes& model, uint64_t budget, Placement* out) {
  uint64_t wanted = 0;
  for (size_t l = 0; l < model.layers.size(); ++l) {
    if (!out->layers[l].on_device) continue;
    wanted += model.layers[l].all_experts();
    out->slot_bytes = std::max(out->slot_bytes, model.layers[l].expert_bytes);
  }
  uint64_t left = budget - out->total_bytes();
  uint64_t for_slots = wanted <= left ? 0 : left / kSlotShare;
  int64_t host_experts = 0;
  for (size_t l = model.layers.size(); l-- > 0;) {
    const ModelBytes::Layer& bytes = model.layers[l];
    if (!out->layers[l].on_device || bytes.experts == 0) continue;
    if (bytes.all_experts() + for_slots > left) {
      host_experts += bytes.experts;
      continue;
    }
    left -= bytes.all_experts();
    out->weight_bytes += bytes.all_experts();
    out->layers[l].experts = Placement::Experts::kDevice;
  }
  if (host_experts == 0 || out->slot_bytes == 0) {
    out->slot_bytes = 0;
    return;
  }
  out->slots = std::min(static_cast<int64_t>(left / out->slot_bytes), host_experts);
}

}  // namespace

bool KvBIsWidened(FormatId format) {
  return format != FormatId::kF16 && format != FormatId::kBf16 && format != FormatId::kFp8B128 &&
         format != FormatId::kQ8G32;
}

uint64_t ModelBytes::total() const {
  uint64_t bytes = head_bytes;
  for (const Layer& layer : layers) bytes += layer.fixed_bytes + layer.all_experts();
  return bytes;
}

absl::StatusOr<ModelBytes> BytesOfModel(const ModelSchema& schema, absl::Span<const FormatId> formats) {
  const ArchSpec& arch = schema.arch();
  ModelBytes model;
  model.layers.resize(static_cast<size_t>(arch.num_hidden_layers()));
  model.experts_per_token = arch.moe().num_experts_per_tok();
  for (size_t i = 0; i < schema.tensors().size(); ++i) {
    const TensorInfo& tensor = schema.tensors()[i];
    if (IsMtpLayer(arch, tensor.layer)) continue;
    KOMPAKT_ASSIGN_OR_RETURN(const uint64_t bytes, BytesOnDevice(tensor, formats[i]));
    if (tensor.layer < 0) {
      const bool head = tensor.role != TensorRole::kEmbedTokens || arch.tie_word_embeddings();
      if (head) model.head_bytes += bytes;
      continue;
    }
    ModelBytes::Layer& layer = model.layers[static_cast<size_t>(tensor.layer)];
    layer.has_indexer = HasIndexer(arch, tensor.layer);
    if (tensor.expert < 0) {
      layer.fixed_bytes += bytes;
      continue;
    }
    if (layer.experts == 0) {
      layer.experts = arch.moe().n_routed_experts();
      layer.fixed_bytes += Aligned(static_cast<uint64_t>(layer.experts) * sizeof(void*));  // where each of them is
    }
    if (tensor.expert == 0) layer.expert_bytes += bytes;  // all of a layer are alike
  }
  return model;
}

int64_t Placement::device_expert_layers() const {
  return std::count_if(layers.begin(), layers.end(),
                       [](const Layer& layer) { return layer.experts == Experts::kDevice; });
}

int64_t Placement::host_expert_layers() const {
  return std::count_if(layers.begin(), layers.end(),
                       [](const Layer& layer) { return layer.on_device && layer.experts == Experts::kHost; });
}

absl::StatusOr<Placement> PlaceModel(const ModelBytes& model, const PlacementRequest& request) {
  const auto layers = static_cast<int64_t>(model.layers.size());
  Placement placement;
  if (request.gpu_layers >= 0) {
    const int64_t first = layers - std::min(request.gpu_layers, layers);
    const bool fits = PlaceFrom(model, request, first, &placement);
    if (first == layers) {
      placement.weight_bytes = placement.cache_bytes = placement.working_bytes = 0;
      return placement;
    }
    if (!fits) {
      return TooSmall(request.budget_bytes, absl::StrCat(layers - first, " layers without their experts, and the head"),
                      placement.total_bytes());
    }
    PlaceExperts(model, request.budget_bytes, &placement);
    return placement;
  }
  for (int64_t first = 0; first < layers; ++first) {
    if (!PlaceFrom(model, request, first, &placement)) continue;
    PlaceExperts(model, request.budget_bytes, &placement);
    return placement;
  }
  return TooSmall(request.budget_bytes, "one layer without its experts, and the head", placement.total_bytes());
}

std::string PlacementText(const Placement& placement) {
  const auto layers = static_cast<int64_t>(placement.layers.size());
  if (placement.device_layers() == 0) return "nothing on the device";
  std::string text = absl::StrCat("layers ", placement.first_device_layer, "-", layers - 1, " and the head");
  const int64_t host = placement.host_expert_layers();
  const int64_t device = placement.device_expert_layers();
  if (host + device > 0) absl::StrAppend(&text, ", routed experts of ", device, " of ", host + device, " layers");
  if (placement.slots > 0) absl::StrAppend(&text, ", slots for ", placement.slots, " single experts");
  return text;
}

DecodeEstimate EstimateDecode(const ModelBytes& model, const Placement& placement, const CacheReads& reads,
                              int64_t hidden_size, const BytesPerSecond& rates) {
  const auto row = static_cast<double>(hidden_size) * sizeof(float);
  int64_t host_experts = 0;
  for (size_t l = 0; l < model.layers.size(); ++l) {
    const Placement::Layer& place = placement.layers[l];
    if (place.on_device && place.experts == Placement::Experts::kHost) host_experts += model.layers[l].experts;
  }
  const double hit =
      host_experts == 0 ? 0 : std::min(1.0, static_cast<double>(placement.slots) / static_cast<double>(host_experts));
  DecodeEstimate estimate;
  if (placement.device_layers() > 0) {
    estimate.device_bytes += static_cast<double>(model.head_bytes);
    estimate.link_bytes += row;  // of the embedding, or of the last layer on the host
  } else {
    estimate.host_bytes += static_cast<double>(model.head_bytes);
  }
  for (size_t l = 0; l < model.layers.size(); ++l) {
    const ModelBytes::Layer& layer = model.layers[l];
    const Placement::Layer& place = placement.layers[l];
    const double experts = static_cast<double>(layer.expert_bytes) * static_cast<double>(model.experts_per_token);
    const double fixed = static_cast<double>(layer.fixed_bytes) + reads.rows + (layer.has_indexer ? reads.keys : 0);
    if (!place.on_device) {
      estimate.host_bytes += fixed + experts;
    } else if (place.experts == Placement::Experts::kHost) {
      estimate.device_bytes += fixed + experts * hit;
      estimate.host_bytes += experts * (1 - hit);
      estimate.link_bytes += 2 * row;
    } else {
      estimate.device_bytes += fixed + experts;
    }
  }
  const double seconds =
      estimate.device_bytes / rates.device + estimate.host_bytes / rates.host + estimate.link_bytes / rates.link;
  estimate.tokens_per_second = seconds > 0 ? 1 / seconds : 0;
  return estimate;
}

}  // namespace kompakt
