// ExpertSlots: which single experts of layers whose experts are on the host have a copy on the device.
//
// The least recently used copy gives way. An expert is copied when it is asked for a second time while it is still
// remembered: what is asked for once in a while is not worth the copy. Decisions depend on the sequence of calls alone,
// so that the same text is computed the same way every time.
#pragma once

#include <cstdint>
#include <list>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace kompakt {

class ExpertSlots {
 public:
  // `remembered`: how many experts without a copy are remembered.
  ExpertSlots(int64_t slots, int64_t remembered) : slots_(slots), remembered_(remembered) {}

  struct Expert {
    int32_t layer = 0;
    int32_t index = 0;
    friend bool operator==(const Expert&, const Expert&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const Expert& e) {
      return H::combine(std::move(h), e.layer, e.index);
    }
  };

  // Notes that a token takes this expert. True: it has a copy. False: it has none, and `worth_a_copy` says whether one
  // should be made now.
  bool Use(Expert expert, bool* worth_a_copy);

  // Gives a slot to an expert without one, perhaps one that another expert had until now. There must be slots.
  struct Given {
    int64_t slot = 0;
    bool taken_away = false;
    Expert from;  // where taken_away
  };
  Given Give(Expert expert);

  int64_t slots() const { return slots_; }
  int64_t hits() const { return hits_; }
  int64_t misses() const { return misses_; }

 private:
  struct Copy {
    Expert expert;
    int64_t slot = 0;
  };

  int64_t slots_;
  int64_t remembered_;
  int64_t hits_ = 0;
  int64_t misses_ = 0;
  std::list<Copy> copies_;  // most recently used first
  absl::flat_hash_map<Expert, std::list<Copy>::iterator> copy_of_;
  std::list<Expert> asked_;  // without a copy, asked for last first
  absl::flat_hash_map<Expert, std::list<Expert>::iterator> asked_at_;
};

}  // namespace kompakt
