// PackedSource: a packed file as a TensorSource, so that a lossless one can be converted again with another recipe.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "format/packed_reader.h"
#include "format/tensor_source.h"

namespace kompakt {

// kFailedPrecondition naming the first tensor that is already quantized: encoding it a second time would add error to
// error, and what it would cost could not be said. Each record's XXH3 is checked before its first use (kDataLoss).
absl::StatusOr<std::unique_ptr<TensorSource>> OpenPackedSource(std::shared_ptr<const PackedReader> file);

// Any packed file, quantized ones too: for who only wants the values, and does not encode them again.
std::unique_ptr<TensorSource> OpenPackedValues(std::shared_ptr<const PackedReader> file);

}  // namespace kompakt
