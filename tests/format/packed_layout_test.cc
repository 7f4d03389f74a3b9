#include "format/packed_layout.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/format/example_arch.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

// Matrices in q4_g32 or q8_g32 by class, vectors in f32.
std::vector<FormatId> MixedFormats(const ModelSchema& schema) {
  std::vector<FormatId> formats;
  for (const TensorInfo& t : schema.tensors()) {
    formats.push_back(t.is_vector()                                               ? FormatId::kF32
                      : InfoOf(t.role).tensor_class == TensorClass::kRoutedExpert ? FormatId::kQ4G32
                                                                                  : FormatId::kQ8G32);
  }
  return formats;
}

TEST(PackedLayout, ExtentsAscendAlignAndHoldEveryTensorOnce) {
  const auto schema = ModelSchema::Create(DeepSeekV2LiteArch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  const auto layout = PackedLayout::Create(*schema, MixedFormats(*schema));
  ASSERT_TRUE(layout.ok()) << layout.status();
  uint64_t end = kHeaderBytes;
  size_t tensors = 0;
  for (const Extent& e : layout->extents()) {
    EXPECT_GE(e.offset, end) << "extents overlap";
    const bool page = e.experts || e.record_bytes >= kPageAlignFrom;
    EXPECT_EQ(e.offset % (page ? kPageBytes : kSmallAlign), 0u);
    EXPECT_EQ(e.experts ? e.record_bytes % kPageBytes : 0, 0u);
    EXPECT_EQ(e.record_count, e.experts ? 64 : 1);
    end = e.offset + e.total_bytes();
    tensors += e.parts.size() * static_cast<size_t>(e.record_count);
  }
  EXPECT_EQ(tensors, schema->tensors().size());
  EXPECT_EQ(layout->data_end(), (end + 63) / 64 * 64);
}

TEST(PackedLayout, AnExpertRecordIsGateThenUpThenDown) {
  const auto schema = ModelSchema::Create(DeepSeekV2LiteArch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  const auto layout = PackedLayout::Create(*schema, MixedFormats(*schema));
  ASSERT_TRUE(layout.ok()) << layout.status();
  const PackedLayout::Place down = layout->Find(TensorRole::kExpertDown, 3);
  ASSERT_GE(down.extent, 0);
  const Extent& e = layout->extents()[static_cast<size_t>(down.extent)];
  ASSERT_EQ(e.parts.size(), 3u);
  EXPECT_EQ(e.parts[0].role, TensorRole::kExpertGate);
  EXPECT_EQ(e.parts[1].role, TensorRole::kExpertUp);
  EXPECT_EQ(e.parts[2].role, TensorRole::kExpertDown);
  EXPECT_EQ(e.parts[1].offset_in_record, e.parts[0].blob.total_bytes);
  EXPECT_EQ(layout->Find(TensorRole::kExpertDown, 0).extent, -1) << "layer 0 is dense";
}

TEST(PackedLayout, ExpertsOfOneLayerShareAFormatPerRole) {
  const auto schema = ModelSchema::Create(DeepSeekV2LiteArch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  std::vector<FormatId> formats = MixedFormats(*schema);
  formats[static_cast<size_t>(schema->Find(TensorRole::kExpertUp, 2, 7))] = FormatId::kQ8G32;
  const auto layout = PackedLayout::Create(*schema, formats);
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(layout.status().message()), HasSubstr("model.layers.2.mlp.experts.7.up_proj.weight"));
}

TEST(PackedLayout, AVectorCannotBeQuantized) {
  const auto schema = ModelSchema::Create(DeepSeekV2LiteArch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  std::vector<FormatId> formats = MixedFormats(*schema);
  formats[static_cast<size_t>(schema->Find(TensorRole::kFinalNorm))] = FormatId::kQ8G32;
  const auto layout = PackedLayout::Create(*schema, formats);
  EXPECT_FALSE(layout.ok());
  EXPECT_THAT(std::string(layout.status().message()), HasSubstr("model.norm.weight"));
}

}  // namespace
}  // namespace kompakt
