#include "tools/terminal.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/utf8.h"

namespace kompakt {
namespace {

bool verbose = false;

// Separators of lines and paragraphs, and marks, embeddings, overrides and isolates of the direction of writing.
bool ChangesTheLine(char32_t code) {
  return code == 0x2028 || code == 0x2029 || code == 0x200e || code == 0x200f || code == 0x61c ||
         (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

std::string WithUnit(double value, const char* const* units, int last) {
  int unit = 0;
  while (value >= 999.5 && unit < last) {
    value /= 1000;
    ++unit;
  }
  const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return absl::StrFormat("%.*f%s", decimals, value, units[unit]);
}

}  // namespace

std::string Escaped(absl::string_view text, bool lines) {
  std::string out;
  while (!text.empty()) {
    // The longest character is four bytes; what is not well formed is shown byte by byte.
    size_t length = 1;
    while (length < 4 && length < text.size() && !IsWellFormedUtf8(text.substr(0, length))) ++length;
    absl::string_view character = text.substr(0, length);
    if (!IsWellFormedUtf8(character)) {
      absl::StrAppendFormat(&out, "\\x%02x", static_cast<unsigned char>(text[0]));
      text.remove_prefix(1);
      continue;
    }
    text.remove_prefix(length);
    const char32_t code = TakeCodePoint(&character);
    const bool control = code < 0x20 || (code >= 0x7f && code < 0xa0);
    const bool kept = lines && (code == '\n' || code == '\t');
    if ((control && !kept) || ChangesTheLine(code)) {
      absl::StrAppendFormat(&out, "\\u%04x", static_cast<unsigned>(code));
    } else {
      AppendUtf8(code, &out);
    }
  }
  return out;
}

bool PrintAnswer(absl::string_view text) { return PrintRaw(Escaped(text, true)); }

bool PrintRaw(absl::string_view text) {
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
}

void PrintNotice(absl::string_view line) {
  const std::string text = absl::StrCat(Escaped(line, false), "\n");
  std::fwrite(text.data(), 1, text.size(), stderr);
}

void PrintNoticeLines(absl::string_view text) {
  const std::string lines = absl::StrCat(Escaped(text, true), "\n");
  std::fwrite(lines.data(), 1, lines.size(), stderr);
}

bool Verbose() { return verbose; }
void SetVerbose(bool value) { verbose = value; }

std::string HumanBytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {" B", " kB", " MB", " GB", " TB", " PB"};
  return WithUnit(static_cast<double>(bytes), kUnits, 5);
}

std::string HumanSeconds(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (seconds < 0.95) return "less than 1 s";
  if (whole < 60) return seconds < 9.5 ? absl::StrFormat("%.1f s", seconds) : absl::StrCat(whole, " s");
  if (whole < 3600) return absl::StrCat(whole / 60, " min ", whole % 60, " s");
  return absl::StrCat(whole / 3600, " h ", whole % 3600 / 60, " min");
}

std::string HumanCount(int64_t count) {
  static constexpr const char* kUnits[] = {"", " k", " M", " B", " T"};
  return WithUnit(static_cast<double>(count), kUnits, 4);
}

std::string GroupedDigits(int64_t value) {
  const std::string digits = absl::StrCat(value);
  std::string grouped;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool first = i == 0 || (i == 1 && digits[0] == '-');
    if (!first && (digits.size() - i) % 3 == 0) grouped += ',';
    grouped += digits[i];
  }
  return grouped;
}

Progress::Progress(std::string what, std::string unit)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(Clock::now()),
      last_(start_) {}

Progress::~Progress() {
  if (terminal_ && drawn_) std::fputs("\r\x1b[K", stderr);
}

void Progress::Update(uint64_t done, uint64_t total) {
  const Clock::time_point now = Clock::now();
  const double since_last = std::chrono::duration<double>(now - last_).count();
  if (since_last < (terminal_ ? 0.1 : 5.0)) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = static_cast<double>(done) / seconds;
  const double left = rate > 0 ? static_cast<double>(total - done) / rate : 0;
  const bool bytes = unit_ == "bytes";
  const std::string amount =
      bytes ? absl::StrCat(HumanBytes(done), " of ", HumanBytes(total)) : absl::StrCat(done, " of ", total, " ", unit_);
  const std::string speed =
      bytes ? absl::StrCat(HumanBytes(static_cast<uint64_t>(rate)), "/s") : absl::StrFormat("%.2f %s/s", rate, unit_);
  const std::string line = absl::StrFormat(
      "%s: %3.0f %%  %s  %s  %.0f s left", what_,
      total > 0 ? 100.0 * static_cast<double>(done) / static_cast<double>(total) : 100.0, amount, speed, left);
  std::fputs(absl::StrCat(terminal_ ? "\r\x1b[K" : "", line, terminal_ ? "" : "\n").c_str(), stderr);
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace kompakt
