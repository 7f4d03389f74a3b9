// Placement: which part of a model lies in the memory of a device, and which stays on the host.
//
// Layers go to the device from the last one down, as with llama.cpp's -ngl: what reaches the device stays there until
// the logits. A layer on the device has everything there but perhaps its routed experts, which are most of a model's
// bytes and of which a token reads few: they stay on the host first, where the CPU's kernels compute them, and part of
// the memory that is left becomes slots for single experts that were used lately. The embedding stays on the host: a
// token reads one row of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/block_format.h"
#include "format/model_schema.h"

namespace kompakt {

// Bytes of a model as a device holds it: matrices as in the file, vectors as F32, each on a boundary of 256 bytes.
struct ModelBytes {
  struct Layer {
    uint64_t fixed_bytes = 0;   // everything but the routed experts
    uint64_t expert_bytes = 0;  // one of them; 0 in a dense layer
    int64_t experts = 0;
    bool has_indexer = false;  // of its own, whose keys are kept

    uint64_t all_experts() const { return expert_bytes * static_cast<uint64_t>(experts); }
  };
  std::vector<Layer> layers;  // of the main model
  uint64_t head_bytes = 0;    // final norm and head
  int64_t experts_per_token = 0;

  uint64_t total() const;
};

// Does the device hold a kv_b_proj of this format as F32? Its attention reads f32, f16, bf16, fp8_b128 and q8_g32.
bool KvBIsWidened(FormatId format);

// formats[i] belongs to schema.tensors()[i]. MTP layers are left out: they do not run on a device. Fails as
// LayoutOfMatrix.
absl::StatusOr<ModelBytes> BytesOfModel(const ModelSchema& schema, absl::Span<const FormatId> formats);

struct PlacementRequest {
  uint64_t budget_bytes = 0;       // of device memory
  uint64_t cache_token_bytes = 0;  // of one token in the KV cache of one layer
  uint64_t index_token_bytes = 0;  // beside it in a layer with an indexer
  int64_t context = 0;             // tokens of the cache
  uint64_t working_bytes = 0;      // activations, scratch and staging
  int64_t gpu_layers = -1;         // -ngl: that many layers, from the last; -1: as many as fit
};

struct Placement {
  enum class Experts : uint8_t { kNone, kDevice, kHost };  // kNone: a dense layer
  struct Layer {
    bool on_device = false;
    Experts experts = Experts::kNone;
  };
  std::vector<Layer> layers;
  int64_t first_device_layer = 0;  // layers below are the host's, with their cache
  int64_t slots = 0;               // single experts of layers whose experts are on the host
  uint64_t slot_bytes = 0;         // of one slot: the largest of those experts
  uint64_t weight_bytes = 0;       // head, layers and whole sets of experts
  uint64_t cache_bytes = 0;
  uint64_t working_bytes = 0;

  uint64_t slots_bytes() const { return static_cast<uint64_t>(slots) * slot_bytes; }
  uint64_t total_bytes() const { return weight_bytes + cache_bytes + working_bytes + slots_bytes(); }
  int64_t device_layers() const { return static_cast<int64_t>(layers.size()) - first_device_layer; }
  int64_t device_expert_layers() const;
  int64_t host_expert_layers() const;  // of layers that are on the device
};

// A DeviceError (format/device_error.h) with what is needed at least when the budget holds neither the head with one
// layer nor, with gpu_layers, those layers without their experts. With gpu_layers == 0 nothing is placed.
absl::StatusOr<Placement> PlaceModel(const ModelBytes& model, const PlacementRequest& request);

// For people, one line: "device: layers 0-26 and head, experts of 20 of 26; 96 slots for single experts".
std::string PlacementText(const Placement& placement);

// What a token that is decoded reads, and the rate that the reads allow. An upper bound and no
// measurement: launches, arithmetic and waiting are not counted. Experts of the host are computed while the device
// computes the shared ones, and a slot is taken to be hit as often as it is of all host experts.
struct BytesPerSecond {
  double device = 0;  // its memory
  double host = 0;    // the host's memory
  double link = 0;    // between them
};
// Bytes of its caches that a layer reads for a token; of the keys, a layer with an indexer.
struct CacheReads {
  double rows = 0;
  double keys = 0;
};
struct DecodeEstimate {
  double device_bytes = 0;
  double host_bytes = 0;
  double link_bytes = 0;
  double tokens_per_second = 0;
};
DecodeEstimate EstimateDecode(const ModelBytes& model, const Placement& placement, const CacheReads& reads,
                              int64_t hidden_size, const BytesPerSecond& rates);

}  // namespace kompakt
