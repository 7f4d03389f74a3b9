#include "runtime/device_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "format/device_error.h"
#include "format/status.h"
#include "runtime/device_footprint.h"
#include "runtime/expert_uploads.h"

namespace kompakt {
namespace {

constexpr uint64_t kDeviceAlign = 256;

uint64_t Aligned(uint64_t bytes) { return (bytes + kDeviceAlign - 1) / kDeviceAlign * kDeviceAlign; }

cuda::Matrix OnDevice(const MatrixView& view, const uint8_t* data) {
  return {.data = data,
          .side_offset = view.layout.side_offset,
          .rows = static_cast<int32_t>(view.shape.rows),
          .cols = static_cast<int32_t>(view.shape.cols),
          .format = view.format->id};
}

// The format in which attention reads kv_b_proj.
cuda::KvBFormat KvBFormatOf(FormatId format) {
  switch (format) {
    case FormatId::kF16:
      return cuda::KvBFormat::kF16;
    case FormatId::kBf16:
      return cuda::KvBFormat::kBf16;
    case FormatId::kFp8B128:
      return cuda::KvBFormat::kFp8B128;
    case FormatId::kQ8G32:
      return cuda::KvBFormat::kQ8G32;
    default:
      return cuda::KvBFormat::kF32;
  }
}

// The same matrix as tiles of F32.
absl::StatusOr<std::vector<uint8_t>> Widened(const MatrixView& view) {
  StoredRows rows;
  rows.rows = view.shape.rows;
  rows.cols = view.shape.cols;
  rows.elements.resize(static_cast<size_t>(rows.rows * rows.cols) * sizeof(float));
  DecodeRows(
      view, 0, rows.rows,
      absl::MakeSpan(reinterpret_cast<float*>(rows.elements.data()), static_cast<size_t>(rows.rows * rows.cols)));
  KOMPAKT_ASSIGN_OR_RETURN(const BlobLayout layout, LayoutOfMatrix(FormatOf(FormatId::kF32), view.shape));
  std::vector<uint8_t> tiles(layout.total_bytes);
  PackTiles(rows, tiles.data());
  return tiles;
}

}  // namespace

// Fills a DeviceModel, arena after arena.
class ModelUpload {
 public:
  ModelUpload(const ModelBinding& model, Device& device, Uploader& uploader, DeviceModel& out)
      : model_(model), device_(device), uploader_(uploader), out_(out) {}

  absl::Status Run(const ModelBytes& bytes) {
    KOMPAKT_RETURN_IF_ERROR(NewArena(bytes.head_bytes, "weights of the head"));
    KOMPAKT_RETURN_IF_ERROR(Matrix(model_.head, &out_.head_));
    KOMPAKT_RETURN_IF_ERROR(Vector(model_.final_norm, &out_.final_norm_));
    out_.layers_.resize(model_.layers.size());
    for (size_t l = 0; l < model_.layers.size(); ++l) {
      const Placement::Layer& place = out_.placement_.layers[l];
      if (!place.on_device) continue;
      const LayerBinding& from = model_.layers[l];
      KOMPAKT_RETURN_IF_ERROR(NewArena(bytes.layers[l].fixed_bytes, absl::StrCat("weights of layer ", l)));
      KOMPAKT_RETURN_IF_ERROR(Layer(from, out_.layers_[l]));
      if (!from.moe) continue;
      if (place.experts == Placement::Experts::kDevice) {
        KOMPAKT_RETURN_IF_ERROR(NewArena(bytes.layers[l].all_experts(), absl::StrCat("experts of layer ", l)));
      }
      KOMPAKT_RETURN_IF_ERROR(Experts(from, place.experts == Placement::Experts::kHost, out_.layers_[l]));
    }
    return uploader_.Finish();
  }

 private:
  absl::Status NewArena(uint64_t bytes, const std::string& what) {
    KOMPAKT_ASSIGN_OR_RETURN(DeviceArena arena, DeviceArena::Create(device_, bytes, what));
    out_.arenas_.push_back(std::move(arena));
    return absl::OkStatus();
  }

  absl::StatusOr<uint8_t*> Bytes(const void* from, uint64_t bytes) {
    KOMPAKT_ASSIGN_OR_RETURN(uint8_t* const to, out_.arenas_.back().Take(bytes));
    KOMPAKT_RETURN_IF_ERROR(uploader_.Copy(to, from, bytes));
    return to;
  }

  absl::Status Vector(const std::vector<float>& from, const float** to) {
    if (from.empty()) return absl::OkStatus();
    KOMPAKT_ASSIGN_OR_RETURN(const uint8_t* const data, Bytes(from.data(), from.size() * sizeof(float)));
    *to = reinterpret_cast<const float*>(data);
    return absl::OkStatus();
  }

  absl::Status Matrix(const MatrixView& from, cuda::Matrix* to) {
    if (from.format == nullptr) return absl::OkStatus();
    KOMPAKT_ASSIGN_OR_RETURN(const uint8_t* const data, Bytes(from.data, from.layout.total_bytes));
    *to = OnDevice(from, data);
    return absl::OkStatus();
  }

  absl::Status KvB(const MatrixView& from, cuda::KvBMatrix* to) {
    to->format = KvBFormatOf(from.format->id);
    if (to->format == cuda::KvBFormat::kF32 && from.format->id != FormatId::kF32) {
      KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> tiles, Widened(from));
      KOMPAKT_ASSIGN_OR_RETURN(to->tiles, Bytes(tiles.data(), tiles.size()));
      return absl::OkStatus();
    }
    KOMPAKT_ASSIGN_OR_RETURN(to->tiles, Bytes(from.data, from.layout.total_bytes));
    if (from.layout.side_bytes > 0) to->side = reinterpret_cast<const float*>(to->tiles + from.layout.side_offset);
    return absl::OkStatus();
  }

  absl::Status Ffn(const FfnWeights& from, cuda::FfnMatrices* to) {
    KOMPAKT_RETURN_IF_ERROR(Matrix(from.gate, &to->gate));
    KOMPAKT_RETURN_IF_ERROR(Matrix(from.up, &to->up));
    return Matrix(from.down, &to->down);
  }

  absl::Status Layer(const LayerBinding& from, DeviceLayer& to) {
    const AttentionBinding& attention = from.attention;
    KOMPAKT_RETURN_IF_ERROR(Vector(from.input_norm, &to.input_norm));
    KOMPAKT_RETURN_IF_ERROR(Vector(from.post_attention_norm, &to.post_attention_norm));
    KOMPAKT_RETURN_IF_ERROR(Matrix(attention.q_proj, &to.q_proj));
    KOMPAKT_RETURN_IF_ERROR(Matrix(attention.q_a_proj, &to.q_a_proj));
    KOMPAKT_RETURN_IF_ERROR(Matrix(attention.q_b_proj, &to.q_b_proj));
    KOMPAKT_RETURN_IF_ERROR(Vector(attention.q_a_norm, &to.q_a_norm));
    KOMPAKT_RETURN_IF_ERROR(Matrix(attention.kv_a_proj, &to.kv_a_proj));
    KOMPAKT_RETURN_IF_ERROR(Vector(attention.kv_a_norm, &to.kv_a_norm));
    KOMPAKT_RETURN_IF_ERROR(KvB(attention.kv_b_proj, &to.kv_b_proj));
    KOMPAKT_RETURN_IF_ERROR(Matrix(attention.o_proj, &to.o_proj));
    KOMPAKT_RETURN_IF_ERROR(Matrix(from.indexer.wq_b, &to.indexer.wq_b));
    KOMPAKT_RETURN_IF_ERROR(Matrix(from.indexer.wk, &to.indexer.wk));
    KOMPAKT_RETURN_IF_ERROR(Matrix(from.indexer.weights, &to.indexer.weights));
    KOMPAKT_RETURN_IF_ERROR(Vector(from.indexer.k_norm, &to.indexer.k_norm));
    KOMPAKT_RETURN_IF_ERROR(Vector(from.indexer.k_bias, &to.indexer.k_bias));
    if (!from.moe) return Ffn(from.dense, &to.dense);
    KOMPAKT_RETURN_IF_ERROR(Matrix(from.router, &to.router));
    KOMPAKT_RETURN_IF_ERROR(Vector(from.router_bias, &to.router_bias));
    return from.has_shared ? Ffn(from.shared, &to.shared) : absl::OkStatus();
  }

  absl::Status Experts(const LayerBinding& from, bool on_host, DeviceLayer& to) {
    to.record = ExpertRecordOf(from.experts.front());
    to.routed = {OnDevice(from.experts.front().gate, nullptr), OnDevice(from.experts.front().up, nullptr),
                 OnDevice(from.experts.front().down, nullptr)};
    to.experts_on_host = on_host;
    to.host_records.assign(from.experts.size(), nullptr);
    const uint64_t table_bytes = from.experts.size() * sizeof(const uint8_t*);
    // The layer's own arena is the last but one where its experts have one.
    DeviceArena& arena = out_.arenas_[out_.arenas_.size() - (on_host ? 1 : 2)];
    KOMPAKT_ASSIGN_OR_RETURN(uint8_t* const table, arena.Take(table_bytes));
    to.records = reinterpret_cast<const uint8_t**>(table);
    for (size_t e = 0; !on_host && e < from.experts.size(); ++e) {
      KOMPAKT_ASSIGN_OR_RETURN(uint8_t* const record, out_.arenas_.back().Take(to.record.bytes));
      KOMPAKT_RETURN_IF_ERROR(CopyExpert(from.experts[e], to.record, record));
      to.host_records[e] = record;
    }
    return uploader_.Copy(table, to.host_records.data(), table_bytes);
  }

  absl::Status CopyExpert(const FfnWeights& from, const ExpertRecord& record, uint8_t* to) {
    KOMPAKT_RETURN_IF_ERROR(uploader_.Copy(to + record.gate, from.gate.data, from.gate.layout.total_bytes));
    KOMPAKT_RETURN_IF_ERROR(uploader_.Copy(to + record.up, from.up.data, from.up.layout.total_bytes));
    return uploader_.Copy(to + record.down, from.down.data, from.down.layout.total_bytes);
  }

  const ModelBinding& model_;
  Device& device_;
  Uploader& uploader_;
  DeviceModel& out_;
};

DeviceModel::DeviceModel() = default;
DeviceModel::~DeviceModel() = default;

ExpertRecord ExpertRecordOf(const FfnWeights& expert) {
  ExpertRecord record;
  record.up = Aligned(expert.gate.layout.total_bytes);
  record.down = record.up + Aligned(expert.up.layout.total_bytes);
  record.bytes = record.down + Aligned(expert.down.layout.total_bytes);
  return record;
}

ModelBytes BytesOfBinding(const ModelBinding& model) {
  const auto matrix = [](const MatrixView& m) { return m.format == nullptr ? 0 : Aligned(m.layout.total_bytes); };
  const auto vector = [](const std::vector<float>& v) { return Aligned(v.size() * sizeof(float)); };
  const auto ffn = [&](const FfnWeights& w) { return matrix(w.gate) + matrix(w.up) + matrix(w.down); };
  ModelBytes bytes;
  bytes.head_bytes = matrix(model.head) + vector(model.final_norm);
  bytes.experts_per_token = model.router_rule.experts_per_token;
  for (const LayerBinding& from : model.layers) {
    ModelBytes::Layer& layer = bytes.layers.emplace_back();
    const AttentionBinding& w = from.attention;
    uint64_t kv_b = matrix(w.kv_b_proj);
    if (KvBIsWidened(w.kv_b_proj.format->id)) {
      kv_b = Aligned(LayoutOfMatrix(FormatOf(FormatId::kF32), w.kv_b_proj.shape)->total_bytes);
    }
    const IndexerBinding& indexer = from.indexer;
    layer.has_indexer = from.has_indexer;
    layer.fixed_bytes = vector(from.input_norm) + vector(from.post_attention_norm) + matrix(w.q_proj) +
                        matrix(w.q_a_proj) + matrix(w.q_b_proj) + vector(w.q_a_norm) + matrix(w.kv_a_proj) +
                        vector(w.kv_a_norm) + kv_b + matrix(w.o_proj) + ffn(from.dense) + matrix(from.router) +
                        vector(from.router_bias) + ffn(from.shared) + matrix(indexer.wq_b) + matrix(indexer.wk) +
                        matrix(indexer.weights) + vector(indexer.k_norm) + vector(indexer.k_bias);
    if (!from.moe) continue;
    layer.experts = std::ssize(from.experts);
    layer.expert_bytes = ExpertRecordOf(from.experts.front()).bytes;
    layer.fixed_bytes += Aligned(from.experts.size() * sizeof(void*));
  }
  return bytes;
}

absl::Status SupportOf(const ModelBinding& model) {
  const ArchSpec& arch = model.arch;
  const MlaSpec& mla = arch.mla();
  const auto at_most = [](absl::string_view what, int64_t found, int64_t most) {
    return found <= most
               ? absl::OkStatus()
               : UnsupportedError("the kernels of a device take a ", what, " of at most ", most, ", found ", found);
  };
  KOMPAKT_RETURN_IF_ERROR(at_most("kv_lora_rank", mla.kv_lora_rank(), cuda::DeviceLatentCache::kMaxRank));
  KOMPAKT_RETURN_IF_ERROR(at_most("qk_rope_head_dim", mla.qk_rope_head_dim(), cuda::DeviceLatentCache::kMaxRope));
  const auto padded = [](int64_t n) { return (n + 15) / 16 * 16; };
  KOMPAKT_RETURN_IF_ERROR(
      at_most("head of queries", padded(mla.qk_nope_head_dim()) + padded(mla.qk_rope_head_dim()), cuda::kMaxHeadDim));
  KOMPAKT_RETURN_IF_ERROR(at_most("v_head_dim", padded(mla.v_head_dim()), cuda::kMaxHeadDim));
  KOMPAKT_RETURN_IF_ERROR(at_most("index_head_dim", arch.indexer().index_head_dim(), cuda::DeviceIndexCache::kMaxDim));
  KOMPAKT_RETURN_IF_ERROR(at_most("index_n_heads", arch.indexer().index_n_heads(), cuda::DeviceIndexCache::kMaxHeads));
  KOMPAKT_RETURN_IF_ERROR(at_most("number of routed experts", arch.moe().n_routed_experts(), cuda::kMaxExperts));
  KOMPAKT_RETURN_IF_ERROR(at_most("number of expert groups", arch.moe().n_group(), cuda::kMaxExpertGroups));
  return at_most("number of experts per token", arch.moe().num_experts_per_tok(), cuda::kMaxChosen);
}

absl::StatusOr<std::shared_ptr<DeviceModel>> DeviceModel::Create(const ModelBinding& model, DeviceTarget& target,
                                                                 CacheFormat format, int64_t context) {
  Device& device = *target.device;
  const ModelBytes bytes = BytesOfBinding(model);
  const DeviceFootprint footprint = DeviceFootprintOf(model.arch, format, context);
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t free, device.FreeBytes());
  PlacementRequest request{.budget_bytes = UsableDeviceBytes(free),
                           .cache_token_bytes = footprint.cache_token_bytes,
                           .index_token_bytes = footprint.index_token_bytes,
                           .context = context,
                           .working_bytes = footprint.working_bytes,
                           .gpu_layers = target.gpu_layers};
  if (target.memory_bytes > 0) {
    if (target.memory_bytes > free) {
      return DeviceError("--gpu-memory: ", target.memory_bytes, " bytes are asked for, ", free, " of ",
                         device.properties().name, "'s ", device.properties().total_bytes, " are free");
    }
    request.budget_bytes = target.memory_bytes;
  }
  auto out = std::make_shared<DeviceModel>();
  out->device_ = &device;
  KOMPAKT_ASSIGN_OR_RETURN(out->placement_, PlaceModel(bytes, request));
  if (out->placement_.device_layers() == 0) return out;
  KOMPAKT_ASSIGN_OR_RETURN(Uploader uploader, Uploader::Create(device));
  KOMPAKT_RETURN_IF_ERROR(ModelUpload(model, device, uploader, *out).Run(bytes));
  if (out->placement_.slots > 0) {
    KOMPAKT_ASSIGN_OR_RETURN(out->slots_,
                             DeviceBuffer::Create(device, out->placement_.slots_bytes(), "slots for single experts"));
    KOMPAKT_ASSIGN_OR_RETURN(out->uploads_, ExpertUploads::Create(model, *out));
  }
  if (target.on_placed) target.on_placed(absl::StrCat("device: ", PlacementText(out->placement_)));
  return out;
}

}  // namespace kompakt
