#include "tools/byte_size.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "format/status.h"

namespace kompakt {
namespace {

struct Unit {
  absl::string_view name;  // lower case
  double bytes;
};
constexpr double kKi = 1024;
constexpr Unit kUnits[] = {
    {"", 1},
    {"b", 1},
    {"k", kKi},
    {"m", kKi* kKi},
    {"g", kKi* kKi* kKi},
    {"t", kKi* kKi* kKi* kKi},
    {"kib", kKi},
    {"mib", kKi* kKi},
    {"gib", kKi* kKi* kKi},
    {"tib", kKi* kKi* kKi* kKi},
    {"kb", 1e3},
    {"mb", 1e6},
    {"gb", 1e9},
    {"tb", 1e12},
};

}  // namespace

absl::StatusOr<uint64_t> ParseByteSize(const std::string& flag, const std::string& text) {
  const absl::string_view all = absl::StripAsciiWhitespace(text);
  const size_t digits = std::min(all.find_first_not_of("0123456789."), all.size());
  const std::string unit = absl::AsciiStrToLower(absl::StripAsciiWhitespace(all.substr(digits)));
  double number = 0;
  const bool is_number = absl::SimpleAtod(all.substr(0, digits), &number);
  for (const Unit& u : kUnits) {
    if (!is_number || unit != u.name) continue;
    const double bytes = std::floor(number * u.bytes);
    if (bytes >= 1 && bytes < 0x1p63) return static_cast<uint64_t>(bytes);
  }
  return UsageError(flag, ": expected an amount such as 2GiB, 512MB or 1048576, found \"", text, "\"");
}

}  // namespace kompakt
