// A model that is shape only: random weights of the right size in memory, for measuring speed without a checkpoint.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/weights.h"

namespace kompakt {

// The memory that MakeSyntheticWeights takes; `formats` as there. Fails with what LayoutOfMatrix fails with.
absl::StatusOr<uint64_t> SyntheticWeightBytes(const ModelSchema& schema, absl::Span<const FormatId> formats);

// `formats`: one per tensor of the schema (of a vector it is not used: norms are 1, biases small). Random tiles
// (kernels/random_tiles.h) sized so that every product keeps the size of what it multiplies and hidden states stay
// finite at any depth. The same arguments give the same bytes whatever the threads. On huge pages where the system
// allows, each piece touched first by one of the threads. `progress(done, total)` in bytes, from any thread but never
// two at once. kResourceExhausted when the memory cannot be had.
absl::StatusOr<std::shared_ptr<const WeightStore>> MakeSyntheticWeights(
    ModelSchema schema, absl::Span<const FormatId> formats, std::string origin, int threads,
    const std::function<void(uint64_t, uint64_t)>& progress);

}  // namespace kompakt
