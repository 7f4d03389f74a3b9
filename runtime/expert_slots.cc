#include "runtime/expert_slots.h"

#include <iterator>

namespace kompakt {

bool ExpertSlots::Use(Expert expert, bool* worth_a_copy) {
  *worth_a_copy = false;
  if (const auto found = copy_of_.find(expert); found != copy_of_.end()) {
    ++hits_;
    copies_.splice(copies_.begin(), copies_, found->second);
    return true;
  }
  ++misses_;
  if (const auto found = asked_at_.find(expert); found != asked_at_.end()) {
    *worth_a_copy = slots_ > 0;
    asked_.splice(asked_.begin(), asked_, found->second);
    return false;
  }
  asked_.push_front(expert);
  asked_at_[expert] = asked_.begin();
  if (std::ssize(asked_) > remembered_) {
    asked_at_.erase(asked_.back());
    asked_.pop_back();
  }
  return false;
}

ExpertSlots::Given ExpertSlots::Give(Expert expert) {
  if (const auto found = asked_at_.find(expert); found != asked_at_.end()) {
    asked_.erase(found->second);
    asked_at_.erase(found);
  }
  Given given;
  if (std::ssize(copies_) < slots_) {
    given.slot = std::ssize(copies_);
  } else {
    given.slot = copies_.back().slot;
    given.taken_away = true;
    given.from = copies_.back().expert;
    copy_of_.erase(given.from);
    copies_.pop_back();
  }
  copies_.push_front({expert, given.slot});
  copy_of_[expert] = copies_.begin();
  return given;
}

}  // namespace kompakt
