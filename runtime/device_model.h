// DeviceModel: the part of a model that lies in a device's memory, shared by the sessions of that model. Matrices are
// the bytes of the file; norms and biases are F32.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_kernels.h"
#include "runtime/binding.h"
#include "runtime/device_memory.h"
#include "runtime/device_target.h"
#include "runtime/placement.h"

namespace kompakt {

// Where the matrices of a routed expert begin in its record on the device, and how long the record is.
struct ExpertRecord {
  uint64_t gate = 0;
  uint64_t up = 0;
  uint64_t down = 0;
  uint64_t bytes = 0;
};
ExpertRecord ExpertRecordOf(const FfnWeights& expert);

// What selects the rows that a token attends to.
struct DeviceIndexer {
  cuda::Matrix wq_b, wk, weights;
  const float* k_norm = nullptr;
  const float* k_bias = nullptr;
};

// A layer of LayerBinding, in device memory. Null pointers and rows = 0: the layer has none.
struct DeviceLayer {
  const float* input_norm = nullptr;
  const float* post_attention_norm = nullptr;
  cuda::Matrix q_proj;  // or q_a_proj and q_b_proj
  cuda::Matrix q_a_proj, q_b_proj;
  const float* q_a_norm = nullptr;
  cuda::Matrix kv_a_proj;
  const float* kv_a_norm = nullptr;
  cuda::KvBMatrix kv_b_proj;
  cuda::Matrix o_proj;
  DeviceIndexer indexer;
  cuda::FfnMatrices dense;
  cuda::Matrix router;
  const float* router_bias = nullptr;
  cuda::FfnMatrices shared;
  cuda::FfnMatrices routed;  // shapes and formats; data is null
  ExpertRecord record;
  bool experts_on_host = false;
  // [E] addresses of records, in device memory and as the host knows them; null: that expert is computed on the host.
  const uint8_t** records = nullptr;
  std::vector<const uint8_t*> host_records;
};

class ExpertUploads;

class DeviceModel {
 public:
  DeviceModel();
  ~DeviceModel();
  // Places the model, whose device must have what SupportOf asks for, and copies its share. `format`, `context`: of the
  // first session's cache, which the placement leaves room for. DeviceErrors: too little memory, a failed copy.
  static absl::StatusOr<std::shared_ptr<DeviceModel>> Create(const ModelBinding& model, DeviceTarget& target,
                                                             CacheFormat format, int64_t context);

  Device& device() const { return *device_; }
  const Placement& placement() const { return placement_; }
  // layers()[l] is filled where placement().layers[l].on_device.
  std::vector<DeviceLayer>& layers() { return layers_; }
  const cuda::Matrix& head() const { return head_; }
  const float* final_norm() const { return final_norm_; }
  uint8_t* slot(int64_t i) const { return slots_.as<uint8_t>() + static_cast<uint64_t>(i) * placement_.slot_bytes; }
  ExpertUploads* uploads() const { return uploads_.get(); }  // null without slots

 private:
  friend class ModelUpload;

  Device* device_ = nullptr;
  Placement placement_;
  std::vector<DeviceLayer> layers_;
  cuda::Matrix head_;
  const float* final_norm_ = nullptr;
  std::vector<DeviceArena> arenas_;
  DeviceBuffer slots_;
  std::unique_ptr<ExpertUploads> uploads_;
};

// OK when the kernels of a device can run the model; else kUnimplemented saying what they cannot.
absl::Status SupportOf(const ModelBinding& model);

// The formats of the tensors of the main model's matrices, as BytesOfModel counts them: of a binding, for a model that
// is loaded.
ModelBytes BytesOfBinding(const ModelBinding& model);

}  // namespace kompakt
