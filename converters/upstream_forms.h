// Tensors of a packed file as their upstream files spelled them (docs/format.md, "Upstream forms").
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "converters/upstream_tensors.h"
#include "format/tensor_source.h"

namespace kompakt {

// Appends the tensors that stood upstream for `tensor`: elements and what belongs to them. Of fused experts, one stands
// for all. `form` is that of the source, with an upstream_form. `source` must outlive them. kDataLoss when the text of
// the form and the stored format contradict each other.
absl::Status AppendUpstream(const TensorSource& source, const TensorInfo& tensor, const StoredForm& form,
                            std::vector<OutputTensor>* outputs);

}  // namespace kompakt
