// ExpertUploads: keeps the slots of a DeviceModel filled with the experts that tokens ask for most lately
// (ExpertSlots). A step starts at most one copy, when it has ended; the copy runs beside the next step, which may
// already use it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "runtime/device_model.h"
#include "runtime/expert_slots.h"

namespace kompakt {

class ExpertUploads {
 public:
  // Both must outlive it; the placement has slots.
  static absl::StatusOr<std::unique_ptr<ExpertUploads>> Create(const ModelBinding& model, DeviceModel& device_model);

  // Of the k experts of a token, ascending, those without a copy on the device are kept in ids and weights; returns how
  // many they are.
  int64_t KeepMissing(int64_t layer, int64_t k, int32_t* ids, float* weights);
  // What is queued on `stream` from now on may use the copies of a layer.
  absl::Status BeforeExperts(int64_t layer, DeviceStream stream);
  // When nothing of the step is running any more.
  absl::Status AfterStep();

  const ExpertSlots& slots() const { return slots_; }

 private:
  ExpertUploads(const ModelBinding& model, DeviceModel& device_model, int64_t remembered)
      : model_(model), device_model_(device_model), slots_(device_model.placement().slots, remembered) {}
  // Tells the device where a record is; null: nowhere.
  absl::Status SetRecord(ExpertSlots::Expert expert, const uint8_t* record, size_t entry);

  const ModelBinding& model_;
  DeviceModel& device_model_;
  ExpertSlots slots_;
  PinnedBuffer staging_;  // a record
  PinnedBuffer entries_;  // two addresses on their way
  OwnedStream stream_;
  OwnedEvent copied_;
  std::optional<ExpertSlots::Expert> wanted_;  // of this step
  int64_t layer_on_its_way_ = -1;
};

}  // namespace kompakt
