// The bundled checkpoints, converted: nothing that lossless promises to keep is lost on the way from shard to tile.
#include <filesystem>

#include "converters/checkpoint.h"
#include "format/packed_reader.h"
#include "format/packed_source.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/convert.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/synthetic_file.h"

namespace kompakt {
namespace {

class ConvertCheckpoint : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<TensorSource> Source() const {
    auto source = OpenCheckpoint(KOMPAKT_TEST_DATA "/checkpoints/" + GetParam());
    EXPECT_TRUE(source.ok()) << source.status();
    return source.ok() ? *std::move(source) : nullptr;
  }
};

TEST_P(ConvertCheckpoint, LosslessDecodesToTheBitsOfTheSource) {
  const ScratchFolder folder;
  const std::string path = folder / "model.kpk";
  const auto source = Source();
  ASSERT_NE(source, nullptr);
  const QuantRecipe recipe = *QuantRecipe::Builtin("lossless");
  const auto plan = PlanConversion(*source, recipe, 2);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto report = Convert(*source, recipe, path, {.threads = 2}, PosixFileSystem());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(std::filesystem::file_size(path), plan->file_bytes);
  EXPECT_TRUE(report->errors.empty());

  const auto reader = PackedReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto packed = OpenPackedSource(*reader);
  ASSERT_TRUE(packed.ok()) << packed.status();
  for (const TensorInfo& tensor : source->schema().tensors()) {
    std::vector<float> expected(static_cast<size_t>(tensor.elements())), found(expected.size());
    const absl::Status read = source->ReadF32(tensor, 0, tensor.rows, absl::MakeSpan(expected));
    ASSERT_TRUE(read.ok()) << read;
    const absl::Status read_back = (*packed)->ReadF32(tensor, 0, tensor.rows, absl::MakeSpan(found));
    ASSERT_TRUE(read_back.ok()) << read_back;
    EXPECT_TRUE(absl::MakeConstSpan(expected) == absl::MakeConstSpan(found)) << tensor.Name();
    const auto form = source->Form(tensor);
    ASSERT_TRUE(form.ok()) << form.status();
    if (form->decoded) continue;
    const auto stored = source->ReadStored(tensor, 0, tensor.rows);
    const auto kept = (*packed)->ReadStored(tensor, 0, tensor.rows);
    ASSERT_TRUE(stored.ok() && kept.ok()) << stored.status() << kept.status();
    EXPECT_TRUE(stored->elements == kept->elements) << tensor.Name();
    EXPECT_TRUE(stored->block_scales == kept->block_scales) << tensor.Name();
    EXPECT_TRUE(stored->group_scales == kept->group_scales) << tensor.Name();
  }
}

TEST_P(ConvertCheckpoint, TheDefaultRecipeGivesTheSameBytesForOneThreadAndForTwo) {
  const ScratchFolder folder;
  const auto source = Source();
  ASSERT_NE(source, nullptr);
  const QuantRecipe recipe = *QuantRecipe::Builtin("q4");
  for (const int threads : {1, 2}) {
    const std::string path = folder / absl::StrCat(threads, ".kpk");
    const auto report = Convert(*source, recipe, path, {.threads = threads}, PosixFileSystem());
    ASSERT_TRUE(report.ok()) << report.status();
  }
  EXPECT_TRUE(ReadWholeFile(folder / "1.kpk") == ReadWholeFile(folder / "2.kpk"));
}

INSTANTIATE_TEST_SUITE_P(All, ConvertCheckpoint,
                         testing::Values("tiny-v3", "v2lite", "v2", "v3", "moonlight", "glmflash", "kimi"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace kompakt
