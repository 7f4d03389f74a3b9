// The kernel sets of ARM.
#pragma once

#include "absl/types/span.h"
#include "kernels/kernel_set.h"

namespace kompakt::arm {

// By ascending preference; none on other machines.
absl::Span<const KernelSet* const> Sets();

}  // namespace kompakt::arm
