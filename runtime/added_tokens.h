// AddedTokens: finds the added tokens of a tokenizer in a text, as the Hugging Face library does: those with
// normalized = false first, in the whole text, then the others in what is left; leftmost, and the longest where several
// begin at one place.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kompakt {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool single_word = false;  // only where no word character is next to it
  bool lstrip = false;       // takes the white space before it with it
  bool rstrip = false;       // and after it
  bool normalized = false;
  bool special = false;  // left out by Decode with skip_special
};

class AddedTokens {
 public:
  // Longest content that is accepted, so that searching stays linear in the text.
  static constexpr size_t kMaxContentBytes = 1024;

  // Tokens with empty content are never found. Contents must differ and be at most kMaxContentBytes long.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  // Calls `on_part` for the parts of `text` (well-formed UTF-8) in order: plain text with id -1, and added tokens.
  using PartFunction = absl::FunctionRef<absl::Status(int32_t id, absl::string_view text)>;
  absl::Status Split(absl::string_view text, PartFunction on_part) const;

  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  // A trie over bytes. Node 0 is the root.
  struct Trie {
    void Add(absl::string_view content, int32_t index);
    // The longest token at the front of `text`: its index, or -1.
    int32_t LongestAt(absl::string_view text) const;
    bool empty() const { return token.size() <= 1; }

    absl::flat_hash_map<uint64_t, uint32_t> children;  // node << 8 | byte -> node
    std::vector<int32_t> token = {-1};                 // of each node: index into tokens_, or -1
    bool begins[256] = {};                             // some content begins with this byte
  };

  absl::Status SplitBy(const Trie& trie, absl::string_view text, PartFunction on_part) const;

  std::vector<AddedToken> tokens_;
  Trie raw_;         // normalized = false
  Trie normalized_;  // normalized = true
};

}  // namespace kompakt
