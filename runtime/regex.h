// Regex: an Oniguruma pattern over UTF-8, as the Hugging Face tokenizers compile it (same engine, syntax and options),
// so patterns mean the same.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct re_pattern_buffer;  // OnigRegexType

namespace kompakt {

class Regex {
 public:
  // Working memory of a search; one per thread, for any number of patterns.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class Regex;
    struct State;
    std::unique_ptr<State> state_;
  };

  // kDataLoss: not a pattern. The message gives Oniguruma's reason.
  static absl::StatusOr<Regex> Create(absl::string_view pattern);

  // Calls `on_match` with the byte range of every match, in order and without overlap; an empty match at the end of
  // the match before is passed over. `text` must be well-formed UTF-8. Look-around sees `text` and nothing beyond.
  // kUnimplemented: the pattern backtracks too much on this text: tens of millions of steps, or stack without end.
  absl::Status ForEachMatch(absl::string_view text, Scratch& scratch,
                            absl::FunctionRef<absl::Status(size_t begin, size_t end)> on_match) const;

  const std::string& pattern() const { return pattern_; }

 private:
  struct Free {
    void operator()(re_pattern_buffer* regex) const;
  };
  explicit Regex(absl::string_view pattern) : pattern_(pattern) {}

  std::string pattern_;
  std::unique_ptr<re_pattern_buffer, Free> regex_;
};

}  // namespace kompakt
