// The kernel sets of x86.
#pragma once

#include "absl/types/span.h"
#include "kernels/kernel_set.h"

namespace kompakt::x86 {

// By ascending preference; none on other machines.
absl::Span<const KernelSet* const> Sets();

}  // namespace kompakt::x86
