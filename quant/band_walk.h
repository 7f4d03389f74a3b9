// BandWalk: the bands of a conversion, numbered from 0 in the order of the file. Workers take them in this order, and
// whoever reads ahead walks the same way.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "format/model_schema.h"
#include "format/packed_layout.h"

namespace kompakt {

struct BandStep {
  int64_t number = 0;
  size_t todo = 0;  // which of the records of the walk
  size_t part = 0;
  int64_t band = 0;
  size_t tensor = 0;  // of the schema
  int64_t number_in_record = 0;
  bool last_of_part = false;
  bool last_of_record = false;
};

class BandWalk {
 public:
  using Record = std::pair<int64_t, int64_t>;  // (extent, record)

  // `records` in file order; all three must outlive the walk.
  BandWalk(const ModelSchema& schema, const PackedLayout& layout, const std::vector<Record>& records)
      : schema_(schema), layout_(layout), records_(records) {}

  // False at the end.
  bool Next(BandStep* step);

 private:
  const ModelSchema& schema_;
  const PackedLayout& layout_;
  const std::vector<Record>& records_;
  BandStep next_;  // `tensor` and the flags not filled in
};

}  // namespace kompakt
