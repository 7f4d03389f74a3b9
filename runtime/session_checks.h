// What every Session checks of a call, and how a trace is laid out, whatever the device.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/session.h"

namespace kompakt {

// kInvalidArgument: no room in the cache, or an id outside the vocabulary.
absl::Status CheckIds(const Model& model, absl::Span<const int32_t> ids, int64_t position, int64_t max_tokens);
// kInvalidArgument: `routing` is not of so many tokens of this model.
absl::Status CheckRouting(const Model& model, const ForwardTrace& routing, int64_t tokens);
// kDataLoss naming the model, `where`, channel and position of a state that is not finite. x: [tokens, h].
absl::Status CheckFiniteStates(const Model& model, KernelContext& context, const float* x, int64_t tokens,
                               int64_t position, absl::string_view where);
// Zeros of the right sizes.
void ClearTrace(const Model& model, int64_t tokens, ForwardTrace& trace);

}  // namespace kompakt
