#include "runtime/expert_uploads.h"

#include <cstring>

#include "format/status.h"

namespace kompakt {

absl::StatusOr<std::unique_ptr<ExpertUploads>> ExpertUploads::Create(const ModelBinding& model,
                                                                     DeviceModel& device_model) {
  Device& device = device_model.device();
  const Placement& placement = device_model.placement();
  // What half of the layers' experts come to is a long memory, and a small one.
  const int64_t remembered = placement.host_expert_layers() * model.arch.moe().n_routed_experts() / 2;
  auto uploads = std::unique_ptr<ExpertUploads>(new ExpertUploads(model, device_model, remembered));
  KOMPAKT_ASSIGN_OR_RETURN(uploads->staging_,
                           PinnedBuffer::Create(device, placement.slot_bytes, "staging of an expert"));
  KOMPAKT_ASSIGN_OR_RETURN(uploads->entries_,
                           PinnedBuffer::Create(device, 2 * sizeof(const uint8_t*), "staging of addresses"));
  KOMPAKT_ASSIGN_OR_RETURN(uploads->stream_, CreateOwnedStream(device));
  KOMPAKT_ASSIGN_OR_RETURN(uploads->copied_, CreateOwnedEvent(device));
  return uploads;
}

int64_t ExpertUploads::KeepMissing(int64_t layer, int64_t k, int32_t* ids, float* weights) {
  int64_t missing = 0;
  for (int64_t i = 0; i < k; ++i) {
    const ExpertSlots::Expert expert{static_cast<int32_t>(layer), ids[i]};
    bool worth_a_copy = false;
    if (slots_.Use(expert, &worth_a_copy)) continue;
    // With no more slots than a token has experts, a copy could push out another one of the same token.
    if (worth_a_copy && !wanted_.has_value() && slots_.slots() > k) wanted_ = expert;
    ids[missing] = ids[i];
    weights[missing] = weights[i];
    ++missing;
  }
  return missing;
}

absl::Status ExpertUploads::BeforeExperts(int64_t layer, DeviceStream stream) {
  if (layer != layer_on_its_way_) return absl::OkStatus();
  layer_on_its_way_ = -1;
  return device_model_.device().Wait(stream, copied_.get());
}

absl::Status ExpertUploads::SetRecord(ExpertSlots::Expert expert, const uint8_t* record, size_t entry) {
  DeviceLayer& layer = device_model_.layers()[static_cast<size_t>(expert.layer)];
  const auto index = static_cast<size_t>(expert.index);
  layer.host_records[index] = record;
  const uint8_t** const from = entries_.as<const uint8_t*>() + entry;
  *from = record;
  return device_model_.device().Copy(layer.records + index, from, sizeof(*from), stream_.get());
}

absl::Status ExpertUploads::AfterStep() {
  if (!wanted_.has_value()) return absl::OkStatus();
  const ExpertSlots::Expert expert = *wanted_;
  wanted_.reset();
  Device& device = device_model_.device();
  KOMPAKT_RETURN_IF_ERROR(device.Synchronize(stream_.get()));  // the last copy has left the staging memory
  const ExpertSlots::Given given = slots_.Give(expert);
  if (given.taken_away) {
    KOMPAKT_RETURN_IF_ERROR(SetRecord(given.from, nullptr, 0));
    KOMPAKT_RETURN_IF_ERROR(device.Synchronize(stream_.get()));
  }
  const LayerBinding& layer = model_.layers[static_cast<size_t>(expert.layer)];
  const FfnWeights& from = layer.experts[static_cast<size_t>(expert.index)];
  const ExpertRecord record = ExpertRecordOf(from);
  auto* const staging = staging_.as<uint8_t>();
  std::memcpy(staging + record.gate, from.gate.data, from.gate.layout.total_bytes);
  std::memcpy(staging + record.up, from.up.data, from.up.layout.total_bytes);
  std::memcpy(staging + record.down, from.down.data, from.down.layout.total_bytes);
  uint8_t* const slot = device_model_.slot(given.slot);
  KOMPAKT_RETURN_IF_ERROR(device.Copy(slot, staging, record.bytes, stream_.get()));
  KOMPAKT_RETURN_IF_ERROR(SetRecord(expert, slot, 1));
  layer_on_its_way_ = expert.layer;
  return device.Record(copied_.get(), stream_.get());
}

}  // namespace kompakt
