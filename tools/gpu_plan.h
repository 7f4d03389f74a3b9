// plan --gpu: what of a model goes to a graphics card, and which rate its bytes allow.
#pragma once

#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/block_format.h"
#include "format/model_schema.h"
#include "tools/exit_code.h"

namespace kompakt {

struct GpuPlanFlags {
  std::string gpu;            // an amount of memory, or a card of runtime/gpu_card.h; empty: not asked for
  std::string gpu_bandwidth;  // amounts per second
  std::string host_bandwidth;
  std::string link_bandwidth;
  int64_t gpu_layers = -1;

  bool asked() const { return !gpu.empty(); }
};

// Adds --gpu, -ngl, --gpu-bandwidth, --host-bandwidth and --link-bandwidth to a verb.
void DeclareGpuPlanFlags(CLI::App& app, GpuPlanFlags& flags);

// Prints the answer, as text or as JSON. formats[i] belongs to schema.tensors()[i]; `context`: tokens of the KV cache,
// and the depth that the rate is given at. kInvalidArgument for a flag's value that is none; a DeviceError when the
// memory does not hold one layer.
absl::StatusOr<ExitCode> AnswerGpuPlan(const GpuPlanFlags& flags, const ModelSchema& schema,
                                       absl::Span<const FormatId> formats, int64_t context, bool json);

}  // namespace kompakt
