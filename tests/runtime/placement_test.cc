// What goes to the device, for made-up sizes and for models of the published shapes.
#include "runtime/placement.h"

#include "format/arch_spec.h"
#include "format/device_error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/gpu_card.h"
#include "tests/fixtures/small_arch.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

// 4 layers, the first of them dense: 100 bytes of head; 10 fixed bytes a layer; 8 experts of 5 bytes.
ModelBytes Small() {
  ModelBytes model;
  model.head_bytes = 100;
  model.experts_per_token = 2;
  model.layers.resize(4, {.fixed_bytes = 10, .expert_bytes = 5, .experts = 8});
  model.layers[0] = {.fixed_bytes = 10, .expert_bytes = 0, .experts = 0};
  return model;
}

// Cache: 2 bytes a layer and token, 3 tokens. Working memory: 7.
PlacementRequest Request(uint64_t budget, int64_t gpu_layers = -1) {
  return {.budget_bytes = budget, .cache_token_bytes = 2, .context = 3, .working_bytes = 7, .gpu_layers = gpu_layers};
}

constexpr uint64_t kAll = 100 + 4 * 10 + 3 * 40 + 4 * 6 + 7;

TEST(PlaceModel, PutsEverythingOnTheDeviceWhereItFits) {
  const auto placement = PlaceModel(Small(), Request(kAll));
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->total_bytes(), kAll);
  EXPECT_EQ(placement->first_device_layer, 0);
  EXPECT_EQ(placement->device_expert_layers(), 3);
  EXPECT_EQ(placement->host_expert_layers(), 0);
  EXPECT_EQ(placement->slots, 0);
  EXPECT_EQ(PlacementText(*placement), "layers 0-3 and the head, routed experts of 3 of 3 layers");
}

TEST(PlaceModel, LeavesRoutedExpertsOnTheHostBeforeAnythingElse) {
  const auto placement = PlaceModel(Small(), Request(kAll - 1));
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->first_device_layer, 0);
  EXPECT_EQ(placement->layers[1].experts, Placement::Experts::kHost);
  EXPECT_EQ(placement->layers[3].experts, Placement::Experts::kDevice);
  EXPECT_GT(placement->slots, 0);
  EXPECT_LE(placement->total_bytes(), kAll - 1);
}

TEST(PlaceModel, LeavesTheFirstLayersOnTheHostWhenTheirAttentionDoesNotFit) {
  const uint64_t two_layers = 100 + 2 * 16 + 7;
  const auto placement = PlaceModel(Small(), Request(two_layers + 3));
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->first_device_layer, 2);
  EXPECT_FALSE(placement->layers[1].on_device);
  EXPECT_EQ(placement->host_expert_layers(), 2);
  EXPECT_EQ(placement->slots, 0) << "three bytes hold no expert of five";
}

TEST(PlaceModel, RefusesAMemoryThatHoldsNotOneLayer) {
  const auto placement = PlaceModel(Small(), Request(100 + 16 + 7 - 1));
  EXPECT_TRUE(IsDeviceError(placement.status()));
  EXPECT_THAT(std::string(placement.status().message()), HasSubstr("122 bytes may be used"));
  EXPECT_THAT(std::string(placement.status().message()), HasSubstr("need 123"));
}

TEST(PlaceModel, TakesTheLastLayersWithNgl) {
  const auto one = PlaceModel(Small(), Request(kAll, 1));
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->first_device_layer, 3);
  EXPECT_EQ(one->cache_bytes, 6u);
  const auto many = PlaceModel(Small(), Request(kAll, 99));
  ASSERT_TRUE(many.ok()) << many.status();
  EXPECT_EQ(many->first_device_layer, 0);
  const auto none = PlaceModel(Small(), Request(0, 0));
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(none->device_layers(), 0);
  EXPECT_EQ(none->total_bytes(), 0u);
  EXPECT_TRUE(IsDeviceError(PlaceModel(Small(), Request(130, 3)).status()));
}

TEST(PlaceModel, NeverTakesMoreThanTheBudgetAndWithMoreOfItNoLessOfTheModel) {
  int64_t last_layers = 0;
  int64_t last_experts = 0;
  for (uint64_t budget = 123; budget <= kAll + 10; ++budget) {
    const auto placement = PlaceModel(Small(), Request(budget));
    ASSERT_TRUE(placement.ok()) << budget << ": " << placement.status();
    EXPECT_LE(placement->total_bytes(), budget);
    EXPECT_GE(placement->device_layers(), last_layers) << budget;
    if (placement->device_layers() == last_layers) {
      EXPECT_GE(placement->device_expert_layers(), last_experts) << budget;
    }
    last_layers = placement->device_layers();
    last_experts = placement->device_expert_layers();
  }
}

TEST(PlaceModel, CountsTheKeysOfLayersWithAnIndexer) {
  ModelBytes model = Small();
  model.layers[1].has_indexer = model.layers[3].has_indexer = true;
  PlacementRequest request = Request(kAll + 2 * 3 * 5);
  request.index_token_bytes = 5;
  const auto placement = PlaceModel(model, request);
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->cache_bytes, 4u * 6 + 2 * 3 * 5);
  EXPECT_EQ(placement->total_bytes(), kAll + 2 * 3 * 5);
  EXPECT_EQ(placement->device_expert_layers(), 3);
  // Rows of 6 bytes in four layers, keys of 15 in two.
  const DecodeEstimate estimate =
      EstimateDecode(model, *placement, {.rows = 6, .keys = 15}, 2, {.device = 1, .host = 1, .link = 1});
  EXPECT_DOUBLE_EQ(estimate.device_bytes, 194 + 2 * 15);
}

TEST(BytesOfModel, CountsEveryTensorOnceAndATiedEmbeddingAsTheHead) {
  for (const ArchSpec& arch : {SmallV3Arch(), SmallV2LiteArch(), SmallV32Arch(), SmallMtpArch()}) {
    const auto schema = ModelSchema::Create(arch);
    ASSERT_TRUE(schema.ok()) << schema.status();
    const std::vector<FormatId> formats(schema->tensors().size(), FormatId::kF32);
    const auto bytes = BytesOfModel(*schema, formats);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    // Whole tiles and boundaries make it more than the elements alone, by less than half at these shapes.
    int64_t elements = schema->main_parameter_count();
    if (!arch.tie_word_embeddings()) elements -= arch.vocab_size() * arch.hidden_size();
    EXPECT_GE(bytes->total(), static_cast<uint64_t>(elements) * 4);
    EXPECT_LE(bytes->total(), static_cast<uint64_t>(elements) * 6);
    EXPECT_EQ(bytes->layers[0].experts, 0);
    EXPECT_EQ(bytes->layers[1].experts, 4);
    for (size_t l = 0; l < bytes->layers.size(); ++l) {
      EXPECT_EQ(bytes->layers[l].has_indexer, HasIndexer(arch, static_cast<int64_t>(l))) << l;
    }
  }
}

TEST(EstimateDecode, IsWhatTheBytesAllow) {
  const auto all = PlaceModel(Small(), Request(kAll));
  ASSERT_TRUE(all.ok()) << all.status();
  // Head 100, four layers of 10 and 6 of cache, three times two experts of 5; a row of 2 floats over the link.
  const DecodeEstimate fast = EstimateDecode(Small(), *all, {.rows = 6}, 2, {.device = 194, .host = 1, .link = 8});
  EXPECT_DOUBLE_EQ(fast.device_bytes, 194);
  EXPECT_DOUBLE_EQ(fast.host_bytes, 0);
  EXPECT_DOUBLE_EQ(fast.link_bytes, 8);
  EXPECT_DOUBLE_EQ(fast.tokens_per_second, 0.5);
  const auto some = PlaceModel(Small(), Request(100 + 4 * 16 + 7));
  ASSERT_TRUE(some.ok()) << some.status();
  const DecodeEstimate slow = EstimateDecode(Small(), *some, {.rows = 6}, 2, {.device = 164, .host = 30, .link = 56});
  EXPECT_DOUBLE_EQ(slow.device_bytes, 164);
  EXPECT_DOUBLE_EQ(slow.host_bytes, 30);
  EXPECT_DOUBLE_EQ(slow.link_bytes, 8 + 3 * 16);
  EXPECT_DOUBLE_EQ(slow.tokens_per_second, 1.0 / 3);
}

TEST(GpuCards, AreFoundByTheNamesThatPeopleUse) {
  for (const char* name : {"4090", "RTX 4090", "rtx4090", "GeForce RTX 4090"}) {
    const auto card = GpuCardByName(name);
    ASSERT_TRUE(card.ok()) << card.status();
    EXPECT_EQ((*card)->name, "4090");
  }
  EXPECT_THAT(std::string(GpuCardByName("9090").status().message()), HasSubstr("3060, 3090, 4090"));
}

}  // namespace
}  // namespace kompakt
