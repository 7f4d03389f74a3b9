// Model: an immutable model, ready to run. Weights stay in their store (a mapped file, or memory); only norms, biases
// and RoPE frequencies are derived at load. The absorbed form of kv_b_proj is multiplied straight from its tiles: a
// copy for V3 would take 4 GB in F32, and decoding reads those tiles once per token either way.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/kernel_set.h"
#include "runtime/activation_policy.h"
#include "runtime/binding.h"
#include "runtime/weights.h"

namespace kompakt {

struct DeviceTarget;  // runtime/device_target.h

struct ModelOptions {
  int threads = 1;
  // null: what KOMPAKT_ISA names, else the best set this machine runs.
  const KernelSet* kernels = nullptr;
  // How far a set that multiplies integers may round what matrices multiply. Default: not at all.
  ActivationPolicy act = {};
  // How sessions keep the latent cache and the keys of indexers; F32 rounds nothing.
  CacheFormat cache_format = CacheFormat::kF32;
  // Where its sessions run; null: on the CPU.
  std::shared_ptr<DeviceTarget> device = nullptr;
};

class Model {
 public:
  // kInvalidArgument: fewer than one thread, or KOMPAKT_ISA names no set. Else what reading the vectors fails with.
  static absl::StatusOr<std::shared_ptr<const Model>> Load(std::shared_ptr<const WeightStore> weights,
                                                           const ModelOptions& options);

  const ArchSpec& arch() const { return binding_.arch; }
  const WeightStore& weights() const { return *weights_; }
  const ModelOptions& options() const { return options_; }
  const KernelSet& kernels() const { return *options_.kernels; }
  const ModelBinding& binding() const { return binding_; }

 private:
  Model(std::shared_ptr<const WeightStore> weights, ModelBinding binding, const ModelOptions& options);

  std::shared_ptr<const WeightStore> weights_;
  ModelBinding binding_;
  ModelOptions options_;
};

}  // namespace kompakt
