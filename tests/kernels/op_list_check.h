// The op list as a test: every case on one kernel set against the reference. Without a test framework, so that it also
// runs where there is none (tests/arm/).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernel_set.h"

namespace kompakt {

enum class OpsToCheck : uint8_t {
  kAll,
  // What an integer set has of its own, products with rounded activations, on matrices of few columns: for emulators,
  // which take a hundred times as long.
  kIntegerTails,
};

// What disagrees, a line each, at most a few. `sets` in the order of the kernel table: a function that a set shares
// with one before it is not tried again. `cases`: how many were tried.
std::vector<std::string> DisagreementsWithReference(absl::Span<const KernelSet* const> sets, OpsToCheck which,
                                                    int64_t* cases);

}  // namespace kompakt
