// The op list as a test: every case on one kernel set against the reference. Without a test framework, so that it also
// runs where there is none (tests/arm/).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "kernels/kernel_set.h"
#include "kernels/op_list.h"

namespace kompakt {

enum class OpsToCheck : uint8_t {
  kAll,
  // What an integer set has of its own, products with rounded activations, on matrices of few columns: for emulators,
  // which take a hundred times as long.
  kIntegerTails,
};

// The cases of the list, small, each once: cases of several models, depths or lengths may be the same then.
std::vector<OpCase> CasesToCheck(OpsToCheck which);

// Does the set have this op? One that is put together for a test may lack some.
bool HasOp(const KernelSet& set, OpId op);

// What disagrees, a line each, at most a few. `sets` in the order of the kernel table: a function that a set shares
// with one before it is not tried again. `threads`: that the sets may use.
std::vector<std::string> DisagreementsWithReference(absl::Span<const KernelSet* const> sets,
                                                    absl::Span<const OpCase> cases, int threads);

}  // namespace kompakt
