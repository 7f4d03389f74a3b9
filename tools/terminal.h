// What a verb may print: the answer on stdout, notices and progress on stderr.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace kompakt {

// Names of files and tensors come from the input and may hold anything. Whatever a terminal could take for a command or
// for another line is written out: bytes that are no UTF-8 as \xNN; control characters, and characters that change the
// direction of writing or separate lines, as \uNNNN, which means the same character inside the strings of a JSON
// answer. With `lines` a newline and a tab stay.
std::string Escaped(absl::string_view text, bool lines);

// The answer, in full, escaped line by line; stdout is flushed. False when stdout cannot take it (closed pipe, full
// disk).
bool PrintAnswer(absl::string_view text);
// The same, byte for byte: text that a model wrote, or that was asked for as it is.
bool PrintRaw(absl::string_view text);
// A line on stderr, escaped.
void PrintNotice(absl::string_view line);
// Several lines on stderr, escaped but for their ends.
void PrintNoticeLines(absl::string_view text);
// Was -v given? Verbs print how they decided things.
bool Verbose();
void SetVerbose(bool verbose);

// "16.2 MB", decimal units, three digits.
std::string HumanBytes(uint64_t bytes);
// "12 s", "3 min 20 s", "5 h 12 min".
std::string HumanSeconds(double seconds);
// "14.1 M" for counts of parameters.
std::string HumanCount(int64_t count);
// 14073648 -> "14,073,648".
std::string GroupedDigits(int64_t value);

// A progress line on stderr: rewritten in place on a terminal with rate and time left, else one plain line per tenth of
// the work and at most one in five seconds.
class Progress {
 public:
  // `unit` "bytes" prints byte rates; any other unit is printed as it is ("chunks").
  Progress(std::string what, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void Update(uint64_t done, uint64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  std::string unit_;
  bool terminal_;
  bool drawn_ = false;
  Clock::time_point start_;
  Clock::time_point last_;
};

}  // namespace kompakt
