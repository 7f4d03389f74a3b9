// Attention over selected rows, in terms of a kernel set's own attention: the rows of each token are gathered into a
// small cache of their own, which the absorbed form then sees whole. Gathering is one copy of the rows; every product
// that follows is larger by the number of heads.
#pragma once

#include "absl/status/status.h"
#include "kernels/kernel_set.h"

namespace kompakt {

absl::Status GatherAndAttend(const MlaSparseParams& p, absl::Status (*mla_decode)(const MlaParams&, KernelContext&),
                             KernelContext& context);

}  // namespace kompakt
