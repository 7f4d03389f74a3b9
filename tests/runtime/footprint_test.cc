#include "runtime/footprint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "converters/checkpoint.h"
#include "format/file_system.h"
#include "format/packed_reader.h"
#include "quant/convert.h"
#include "quant/recipe.h"
#include "runtime/session.h"
#include "tests/converters/status_matchers.h"
#include "tests/converters/temp_folder.h"
#include "tests/runtime/golden_file.h"

namespace kompakt {
namespace {

void ExpectBounded(const std::shared_ptr<const Model>& model, const std::string& what) {
  constexpr int64_t kContext = 1100;
  const int threads = model->options().threads;
  auto session = *Session::Create(model, kContext);
  std::vector<int32_t> ids(1000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7 % 130);
  ASSERT_THAT(session->Forward(ids, Session::Logits::kLast), IsOk());
  for (int i = 0; i < 3; ++i) {
    ASSERT_THAT(session->Forward(absl::MakeSpan(ids).subspan(0, 1), Session::Logits::kLast), IsOk());
  }
  const Footprint bound = FootprintOf(model->arch(), kContext, threads, CacheFormat::kF32);
  EXPECT_EQ(session->cache_bytes(), bound.cache_bytes) << what;
  EXPECT_LE(session->working_bytes(), bound.working_bytes) << what << " on " << threads << " threads";
  // A bound that is far too high would refuse what fits.
  EXPECT_LE(bound.working_bytes, 4 * session->working_bytes() + (uint64_t{32} << 20)) << what;
}

TEST(Footprint, IsNeverExceededByASession) {
  for (const char* name : {"v2lite", "v2", "v3", "moonlight", "glmflash", "kimi", "v32", "glm5"}) {
    for (const int threads : {1, 3}) ExpectBounded(ExactModel(name, nullptr, threads), name);
  }
}

TEST(Footprint, IsNotExceededByRoundedActivationsEither) {
  const TempFolder folder;
  for (const char* name : {"v2lite", "v3"}) {
    const auto source = *OpenCheckpoint(CheckpointFolder(name));
    const std::string path = folder.File(name);
    ASSERT_THAT(Convert(*source, *QuantRecipe::Builtin("q4"), path, {.threads = 2}, PosixFileSystem()), IsOk());
    ModelOptions options;
    options.threads = 3;
    options.act = ActivationPolicy(ActivationPolicy::Kind::kInt16);
    ExpectBounded(*Model::Load(PackedWeights(*PackedReader::Open(path)), options), name);
  }
}

}  // namespace
}  // namespace kompakt
