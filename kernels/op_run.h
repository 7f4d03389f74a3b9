// PreparedOp: a case of the op list with random weights and inputs, ready to run with any kernel set.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/kernel_set.h"
#include "kernels/op_inputs.h"
#include "kernels/op_list.h"

namespace kompakt {

class PreparedOp {
 public:
  virtual ~PreparedOp() = default;

  // `spread`: weights and latent cache are copied until each takes so many bytes, and each run takes the next copy, so
  // that they come from memory and not from a processor's cache. 0: one copy. The same case gives the same weights and
  // inputs. kResourceExhausted.
  static absl::StatusOr<std::unique_ptr<PreparedOp>> Create(const OpCase& c, uint64_t spread, OpArena& arena,
                                                            KernelContext& context);

  // One call of the op. Ops that work in place go on from what the last run left; Reset gives the first run again.
  virtual absl::Status Run(const KernelSet& set, KernelContext& context) = 0;
  virtual void Reset() = 0;
  // Replaces the inputs by what the case's ActPrecision makes of them (kernels/activation.h), so that a set which
  // rounds them finds the same values as one which does not.
  virtual void RoundInputs() {}

  // Of the last run.
  virtual OpCost cost() const = 0;
  virtual std::vector<float> values() const = 0;
  virtual std::vector<int32_t> ids() const { return {}; }
};

}  // namespace kompakt
