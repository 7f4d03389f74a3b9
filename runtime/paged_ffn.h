// The routed experts of a layer when they are kept in an ExpertCache.
#pragma once

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/kernel_set.h"
#include "runtime/binding.h"

namespace kompakt {

// Starts to read the experts that the layer `next` will probably need: its norm and router, applied to what its
// attention has not changed yet. x: [tokens, h], the residual stream of the layer before it. Does nothing where `next`
// has no experts in the cache. Fails only for lack of scratch memory.
absl::Status GuessExperts(const ModelBinding& model, const LayerBinding& next, const KernelSet& kernels,
                          KernelContext& context, const float* x, int64_t tokens);

}  // namespace kompakt
