// A packed file runs as its source does.
#include <gtest/gtest.h>

#include "converters/checkpoint.h"
#include "format/file_system.h"
#include "format/packed_reader.h"
#include "quant/convert.h"
#include "runtime/session.h"
#include "tests/converters/status_matchers.h"
#include "tests/converters/temp_folder.h"
#include "tests/runtime/golden_file.h"

namespace kompakt {
namespace {

TEST(PackedModel, LosslessGivesTheBitsOfTheCheckpointItself) {
  const TempFolder folder;
  for (const char* const name : {"v2lite", "v2", "v3", "moonlight", "glmflash", "kimi", "v32", "glm5"}) {
    const auto source = *OpenCheckpoint(CheckpointFolder(name));
    const std::string path = folder.File(std::string(name) + ".kpk");
    ASSERT_THAT(Convert(*source, *QuantRecipe::Builtin("lossless"), path, {}, PosixFileSystem()), IsOk());
    const auto file = PackedReader::Open(path);
    ASSERT_THAT(file, IsOk());
    const std::vector<int32_t> ids = GoldenInts(CheckpointFolder(name) + "/golden.safetensors", "ids");
    for (const KernelSet* kernels : AvailableKernelSets()) {
      const auto packed = *Model::Load(PackedWeights(*file), {.threads = 2, .kernels = kernels});
      const auto exact = ExactModel(name, kernels);
      std::vector<float> logits[2];
      for (int i = 0; i < 2; ++i) {
        auto session = *Session::Create(i == 0 ? packed : exact, std::ssize(ids));
        auto output = session->Forward(ids, Session::Logits::kAll);
        ASSERT_THAT(output, IsOk());
        logits[i] = output->logits;
      }
      EXPECT_EQ(logits[0], logits[1]) << name << " " << kernels->name;
    }
  }
}

}  // namespace
}  // namespace kompakt
