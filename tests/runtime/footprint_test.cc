#include "runtime/footprint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/session.h"
#include "tests/converters/status_matchers.h"
#include "tests/runtime/golden_file.h"

namespace kompakt {
namespace {

TEST(Footprint, IsNeverExceededByASession) {
  for (const char* name : {"v2lite", "v2", "v3", "moonlight", "glmflash", "kimi", "v32", "glm5"}) {
    for (const int threads : {1, 3}) {
      const auto loaded = ExactModel(name, nullptr, threads);
      constexpr int64_t kContext = 1100;
      auto session = *Session::Create(loaded, kContext);
      std::vector<int32_t> ids(1000);
      for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7 % 130);
      ASSERT_THAT(session->Forward(ids, Session::Logits::kLast), IsOk());
      for (int i = 0; i < 3; ++i) {
        ASSERT_THAT(session->Forward(absl::MakeSpan(ids).subspan(0, 1), Session::Logits::kLast), IsOk());
      }
      const Footprint bound = FootprintOf(loaded->arch(), kContext, threads, CacheFormat::kF32);
      EXPECT_EQ(session->cache_bytes(), bound.cache_bytes) << name;
      EXPECT_LE(session->working_bytes(), bound.working_bytes) << name << " on " << threads << " threads";
      // A bound that is far too high would refuse what fits.
      EXPECT_LE(bound.working_bytes, 4 * session->working_bytes() + (uint64_t{32} << 20)) << name;
    }
  }
}

}  // namespace
}  // namespace kompakt
