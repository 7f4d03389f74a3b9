// The flags of every verb that runs a model, and the ModelOptions that they stand for.
#pragma once

#include <cstdint>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "runtime/model.h"
#include "tools/device_flags.h"

namespace kompakt {

struct RuntimeFlags {
  int threads = 0;
  std::string act = "f32";
  std::string kv = "f32";
  std::string ram;     // --ram; empty: not given
  DeviceFlags device;  // DeclareDeviceFlags adds its flags
};

// Adds -t to a verb.
void DeclareRuntimeFlags(CLI::App& app, RuntimeFlags& flags);
// Adds --act to a verb that may run on rounded activations.
void DeclareActivationFlag(CLI::App& app, RuntimeFlags& flags, const char* default_act);

// Adds --kv, with a default. What it costs: docs/kv-cache.md.
void DeclareCacheFlag(CLI::App& app, std::string& kv, const char* default_kv);
// kInvalidArgument naming --kv for what is no format.
absl::StatusOr<CacheFormat> ResolveCacheFlag(const std::string& kv);
// Adds --ram to a verb that can run a packed file without all of it in memory; the option, for what it excludes.
CLI::Option* DeclareRamLimitFlag(CLI::App& app, RuntimeFlags& flags);
// Bytes of --ram; 0 where it was not given. kInvalidArgument when it is no amount.
absl::StatusOr<uint64_t> RamLimitOf(const RuntimeFlags& flags);

// kInvalidArgument naming the flag whose value is not one.
absl::StatusOr<ModelOptions> ResolveRuntimeFlags(const RuntimeFlags& flags);

// The same options for the same weights on another kernel set; null: the usual one.
ModelOptions WithKernels(ModelOptions options, const KernelSet* kernels);
// The same options with activations and cache as they are.
ModelOptions WithoutRounding(ModelOptions options);

}  // namespace kompakt
