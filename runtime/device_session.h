// A Session on a device: prompts in chunks, single tokens by replaying a captured graph. What the placement leaves to
// the host (runtime/placement.h) the CPU computes in between.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "runtime/session.h"

namespace kompakt {

// On model->options().device, whose memory the first session of a model also fills with weights. Errors as
// Session::Create; kUnimplemented when the kernels of a device cannot run this model for so many tokens; DeviceErrors.
absl::StatusOr<std::unique_ptr<Session>> CreateDeviceSession(std::shared_ptr<const Model> model, int64_t max_tokens);

}  // namespace kompakt
