#include "tools/byte_size.h"

#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kompakt {
namespace {

TEST(ParseByteSize, ReadsBinaryAndDecimalUnits) {
  const std::pair<const char*, uint64_t> cases[] = {
      {"1", 1},
      {"1048576", 1048576},
      {"12B", 12},
      {"2K", 2048},
      {"2KiB", 2048},
      {"2kB", 2000},
      {"512M", uint64_t{512} << 20},
      {"1.5GiB", uint64_t{3} << 29},
      {" 1.5 gb ", 1500000000},
      {"40GB", 40000000000},
      {"2TiB", uint64_t{2} << 40},
      {"0.5T", uint64_t{1} << 39},
  };
  for (const auto& [text, bytes] : cases) {
    const auto parsed = ParseByteSize("--ram", text);
    ASSERT_TRUE(parsed.ok()) << text << ": " << parsed.status();
    EXPECT_EQ(*parsed, bytes) << text;
  }
}

TEST(ParseByteSize, RefusesWhatIsNoAmount) {
  for (const char* text :
       {"", "GiB", "-1", "0", "0.1", "1XB", "1 2", "1e9", "nan", "inf", "1.2.3", "9999999TB", "2GiBs"}) {
    const auto parsed = ParseByteSize("--ram", text);
    ASSERT_FALSE(parsed.ok()) << text << " was read as " << *parsed;
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(parsed.status().message()), testing::HasSubstr("--ram"));
  }
}

}  // namespace
}  // namespace kompakt
