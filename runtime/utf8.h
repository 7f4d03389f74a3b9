// UTF-8 with replacement: each maximal ill-formed subpart becomes one U+FFFD (Unicode 15, table 3-8; the rule of WHATWG
// decoders and of Rust's from_utf8_lossy).
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace kompakt {

bool IsWellFormedUtf8(absl::string_view bytes);
std::string Utf8WithReplacement(absl::string_view bytes);

// Appends one code point. `code_point` must be a scalar value.
void AppendUtf8(char32_t code_point, std::string* out);

// Takes the code point at the front of `text`, which must be non-empty and well formed, and returns it.
char32_t TakeCodePoint(absl::string_view* text);

// The same replacement over a text that arrives in parts. Holds back only bytes that may still become a character, and,
// as Python's incremental decoder does, the first two of an encoded surrogate; so at most three. The concatenation of
// what Append and Flush return is Utf8WithReplacement of all the bytes.
class Utf8Stream {
 public:
  std::string Append(absl::string_view bytes);
  std::string Flush();

 private:
  std::string pending_;  // what is held back
};

}  // namespace kompakt
