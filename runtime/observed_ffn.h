// The FFN ops of a KernelSet, taken apart so that the input of the down projection can be seen: gate and up by
// `linear`, silu(gate) * up, then down. Differs from the set's own op by rounding.
#pragma once

#include "absl/status/status.h"
#include "kernels/kernel_set.h"
#include "runtime/linear_observer.h"

namespace kompakt {

// `gate` and `down`: the roles to report the inputs under.
absl::Status ObservedFfn(const FfnParams& p, TensorRole gate, TensorRole down, const KernelSet& kernels,
                         KernelContext& context, LinearObserver& observer);
absl::Status ObservedExpertFfn(const ExpertFfnParams& p, const KernelSet& kernels, KernelContext& context,
                               LinearObserver& observer);

}  // namespace kompakt
