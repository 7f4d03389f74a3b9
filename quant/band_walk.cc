#include "quant/band_walk.h"

#include "quant/band_encoder.h"

namespace kompakt {

bool BandWalk::Next(BandStep* step) {
  if (next_.todo == records_.size()) return false;
  const auto& [extent_index, record] = records_[next_.todo];
  const Extent& extent = layout_.extents()[static_cast<size_t>(extent_index)];
  *step = next_;
  step->tensor = static_cast<size_t>(
      schema_.Find(extent.parts[next_.part].role, extent.layer, extent.experts ? record : int64_t{-1}));
  step->last_of_part = next_.band + 1 == BandCount(schema_.tensors()[step->tensor]);
  step->last_of_record = step->last_of_part && next_.part + 1 == extent.parts.size();
  ++next_.number;
  ++next_.number_in_record;
  ++next_.band;
  if (step->last_of_part) {
    next_.band = 0;
    ++next_.part;
  }
  if (step->last_of_record) {
    next_.part = 0;
    next_.number_in_record = 0;
    ++next_.todo;
  }
  return true;
}

}  // namespace kompakt
