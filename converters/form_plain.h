// plain: BF16, F16 or F32 elements.
#pragma once

#include "converters/source_forms.h"

namespace kompakt {

extern const SourceForm kPlainForm;

// `slice` may be null; the shape of `elements` has been checked.
absl::StatusOr<BoundModule> BindPlain(const ModuleRequest& request, const FoundTensor& elements, MatrixShape shape,
                                      const FusedSlice* slice);

}  // namespace kompakt
