#include "runtime/expert_slots.h"

#include <gtest/gtest.h>

namespace kompakt {
namespace {

// Asks for an expert as a step does, and copies it where that is worth it. True: it had a copy.
bool Ask(ExpertSlots& slots, int32_t layer, int32_t index) {
  bool worth_a_copy = false;
  const bool has = slots.Use({layer, index}, &worth_a_copy);
  if (worth_a_copy) slots.Give({layer, index});
  return has;
}

TEST(ExpertSlots, CopyWhatIsAskedForASecondTime) {
  ExpertSlots slots(2, 8);
  EXPECT_FALSE(Ask(slots, 1, 7));
  EXPECT_FALSE(Ask(slots, 1, 7));
  EXPECT_TRUE(Ask(slots, 1, 7));
  EXPECT_FALSE(Ask(slots, 2, 7)) << "the same number in another layer";
  EXPECT_EQ(slots.hits(), 1);
  EXPECT_EQ(slots.misses(), 3);
}

TEST(ExpertSlots, GiveTheSlotOfTheLeastRecentlyUsed) {
  ExpertSlots slots(2, 8);
  for (const int32_t index : {0, 0, 1, 1}) Ask(slots, 0, index);
  EXPECT_TRUE(Ask(slots, 0, 0));  // so 1 is the older one
  bool worth_a_copy = false;
  slots.Use({0, 2}, &worth_a_copy);
  EXPECT_FALSE(worth_a_copy);
  slots.Use({0, 2}, &worth_a_copy);
  EXPECT_TRUE(worth_a_copy);
  const ExpertSlots::Given given = slots.Give({0, 2});
  EXPECT_TRUE(given.taken_away);
  EXPECT_EQ(given.from, (ExpertSlots::Expert{0, 1}));
  EXPECT_EQ(given.slot, 1);
  EXPECT_FALSE(Ask(slots, 0, 1));
  EXPECT_TRUE(Ask(slots, 0, 0));
  EXPECT_TRUE(Ask(slots, 0, 2));
}

TEST(ExpertSlots, ForgetWhatWasAskedForLongAgo) {
  ExpertSlots slots(1, 2);
  for (const int32_t index : {0, 1, 2}) Ask(slots, 0, index);
  bool worth_a_copy = false;
  slots.Use({0, 0}, &worth_a_copy);
  EXPECT_FALSE(worth_a_copy) << "two others were asked for since";
  slots.Use({0, 2}, &worth_a_copy);
  EXPECT_TRUE(worth_a_copy);
}

TEST(ExpertSlots, AreNothingWhereThereAreNone) {
  ExpertSlots slots(0, 4);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(Ask(slots, 0, 0));
}

}  // namespace
}  // namespace kompakt
