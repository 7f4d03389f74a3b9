// BpeTokenizer: the one Tokenizer there is, put together from the parts that tokenizer.json or tiktoken.model describe.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "runtime/added_tokens.h"
#include "runtime/bpe.h"
#include "runtime/pre_tokenizer.h"
#include "runtime/tokenizer.h"

namespace kompakt {

// The largest id that a file with this many entries may use: there may be holes, but not gigabytes of them.
int64_t LargestCredibleId(size_t entries);

class BpeTokenizer final : public Tokenizer {
 public:
  struct Parts {
    PreTokenizer pre_tokenizer;
    BpeVocabulary vocabulary;
    std::vector<AddedToken> added_tokens;  // ids < vocabulary.bytes.size(); no two with one content
    std::optional<MergeList> merges;       // absent: ranks are those of the vocabulary (tiktoken)
    bool ignore_merges = false;            // a piece that is a token is that token
  };
  explicit BpeTokenizer(Parts parts);

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool parse_special) const override;
  absl::string_view TokenBytes(int32_t id) const override;
  bool IsSpecial(int32_t id) const override;
  int32_t IdOf(absl::string_view token_text) const override;
  int64_t size() const override { return static_cast<int64_t>(vocabulary_.bytes.size()); }

 private:
  struct Work;  // buffers of one Encode
  void EncodePiece(absl::string_view piece, Work& work, std::vector<int32_t>* ids) const;
  void EncodePieceCached(absl::string_view piece, Work& work, std::vector<int32_t>* ids) const;

  PreTokenizer pre_tokenizer_;
  BpeVocabulary vocabulary_;
  AddedTokens added_tokens_;
  std::optional<MergeList> merges_;
  bool ignore_merges_;
  std::vector<bool> is_special_;                           // by id
  absl::flat_hash_map<std::string, int32_t> id_of_added_;  // by content
};

}  // namespace kompakt
