#include "tools/terminal.h"

#include <string>
#include <vector>

#include "format/device_error.h"
#include "format/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/exit_code.h"
#include "tools/model_input.h"
#include "tools/verb.h"

namespace kompakt {
namespace {

using testing::ElementsAre;

TEST(Terminal, BytesAndCountsReadAsAPersonWouldWriteThem) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(16'233'360), "16.2 MB");
  EXPECT_EQ(HumanBytes(688'574'839'360), "689 GB");
  EXPECT_EQ(HumanCount(14'073'648), "14.1 M");
  EXPECT_EQ(HumanCount(671'026'419'200), "671 B");
  EXPECT_EQ(GroupedDigits(671'026'419'200), "671,026,419,200");
  EXPECT_EQ(GroupedDigits(999), "999");
  EXPECT_EQ(GroupedDigits(-1000), "-1,000");
}

TEST(Terminal, NamesFromTheInputReachItEscaped) {
  EXPECT_EQ(Escaped("model.layers.0", false), "model.layers.0");
  EXPECT_EQ(Escaped("a\nb\tc", true), "a\nb\tc");
  EXPECT_EQ(Escaped("a\nb\tc", false), "a\\u000ab\\u0009c");
  EXPECT_EQ(Escaped("\x1b[31mred\x7f\r", true), "\\u001b[31mred\\u007f\\u000d");
  EXPECT_EQ(Escaped(absl::string_view("\0x", 2), true), "\\u0000x");
  EXPECT_EQ(Escaped("größe 模型 😀", false), "größe 模型 😀");
  EXPECT_EQ(Escaped("\xc2\x9b"
                    "2J",
                    true),
            "\\u009b2J")
      << "CSI as one character";
  EXPECT_EQ(Escaped("\xff\xc3(\xe2\x82", true), "\\xff\\xc3(\\xe2\\x82") << "bytes that are no UTF-8";
  EXPECT_EQ(Escaped("a\u202e"
                    "b\u2028"
                    "c\u2066",
                    true),
            "a\\u202eb\\u2028c\\u2066");
}

TEST(ExitCode, EveryKindOfErrorHasTheCodeOfTheTable) {
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("")), 2);
  EXPECT_EQ(ExitCodeOf(absl::AlreadyExistsError("")), 2);
  EXPECT_EQ(ExitCodeOf(absl::DataLossError("")), 3);
  EXPECT_EQ(ExitCodeOf(absl::FailedPreconditionError("")), 3);
  EXPECT_EQ(ExitCodeOf(absl::UnimplementedError("")), 3);
  EXPECT_EQ(ExitCodeOf(absl::NotFoundError("")), 4);
  EXPECT_EQ(ExitCodeOf(absl::AbortedError("")), 4);
  EXPECT_EQ(ExitCodeOf(absl::ResourceExhaustedError("")), 4);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("")), 4);
  EXPECT_EQ(ExitCodeOf(WithContext(DeviceError("no driver"), "run")), 5);
  EXPECT_EQ(ExitCodeOf(absl::CancelledError("")), 130);
  EXPECT_EQ(ExitCodeOf(absl::InternalError("")), 70);
}

TEST(ParseIds, TakesCommasSpacesAndBrackets) {
  const auto ids = ParseIds("[0, 17,5\n9]");
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_THAT(*ids, ElementsAre(0, 17, 5, 9));
  for (const char* bad : {"1,x", "-1", "1.5", "99999999999"}) {
    EXPECT_EQ(ParseIds(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(Verbs, EveryVerbHasASummaryAnExampleAndAMaker) {
  for (const VerbRow& row : AllVerbs()) {
    EXPECT_FALSE(row.summary.empty()) << row.name;
    EXPECT_NE(row.example.find(std::string("kompakt ") + std::string(row.name)), absl::string_view::npos) << row.name;
    EXPECT_NE(row.make(), nullptr) << row.name;
  }
}

}  // namespace
}  // namespace kompakt
