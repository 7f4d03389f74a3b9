// What every Session checks of a call, and how a trace is laid out, whatever the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/session.h"

namespace kompakt {

// kInvalidArgument: `to` is not 0 to `position`.
absl::Status CheckRewind(int64_t to, int64_t position);
// kInvalidArgument: no room in the cache for so many tokens more.
absl::Status CheckRoom(int64_t tokens, int64_t position, int64_t max_tokens);
// kInvalidArgument: no room, or an id outside the vocabulary.
absl::Status CheckIds(const Model& model, absl::Span<const int32_t> ids, int64_t position, int64_t max_tokens);
// kInvalidArgument: `routing` is not of so many tokens of this model.
absl::Status CheckRouting(const Model& model, const ForwardTrace& routing, int64_t tokens);
// kDataLoss naming the model, `where`, channel and position of a state that is not finite. x: [tokens, h].
absl::Status CheckFiniteStates(const Model& model, KernelContext& context, const float* x, int64_t tokens,
                               int64_t position, absl::string_view where);
// forward(), kResourceExhausted where it finds no memory for the results of so many tokens.
template <typename Forward>
absl::StatusOr<Session::Output> WithinMemory(size_t tokens, const Forward& forward) {
  try {
    return forward();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for the results of ", tokens, " tokens"));
  }
}
// Zeros of the right sizes.
void ClearTrace(const Model& model, int64_t tokens, ForwardTrace& trace);

}  // namespace kompakt
