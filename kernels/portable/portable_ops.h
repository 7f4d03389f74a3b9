// The portable set: every weight tile is decoded once into an F32 panel and multiplied with all tokens that need it
// (panel.h). The same bits on every machine.
#pragma once

#include "kernels/kernel_set.h"

namespace kompakt::portable {

absl::Status Linear(const LinearParams& p, KernelContext& context);
absl::Status MlaPrefill(const MlaParams& p, KernelContext& context);
absl::Status MlaDecode(const MlaParams& p, KernelContext& context);
absl::Status IndexSelect(const IndexSelectParams& p, KernelContext& context);
absl::Status MlaSparse(const MlaSparseParams& p, KernelContext& context);
absl::Status Route(const RouteParams& p, KernelContext& context);
absl::Status Ffn(const FfnParams& p, KernelContext& context);
absl::Status ExpertFfn(const ExpertFfnParams& p, KernelContext& context);

extern const KernelSet kPortableSet;

}  // namespace kompakt::portable
