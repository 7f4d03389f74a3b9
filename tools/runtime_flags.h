// The flags of every verb that runs a model, and the ModelOptions that they stand for.
#pragma once

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "runtime/model.h"

namespace kompakt {

struct RuntimeFlags {
  int threads = 0;
};

// Adds -t to a verb.
void DeclareRuntimeFlags(CLI::App& app, RuntimeFlags& flags);

// kInvalidArgument naming the flag whose value is not one.
absl::StatusOr<ModelOptions> ResolveRuntimeFlags(const RuntimeFlags& flags);

// The same options for the same weights on another kernel set; null: the usual one.
ModelOptions WithKernels(ModelOptions options, const KernelSet* kernels);

}  // namespace kompakt
