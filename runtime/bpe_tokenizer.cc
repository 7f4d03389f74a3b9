#include "runtime/bpe_tokenizer.h"

#include <utility>

#include "format/status.h"

namespace kompakt {
namespace {

// The same words come again and again: within one text, short pieces are encoded once.
constexpr size_t kLongestCachedPiece = 48;
constexpr size_t kMostCachedPieces = 1 << 16;

constexpr size_t kLongestText = (size_t{1} << 31) - 1;

}  // namespace

int64_t LargestCredibleId(size_t entries) { return 2 * static_cast<int64_t>(entries) + (1 << 20); }

struct BpeTokenizer::Work {
  struct Cached {
    size_t begin, count;  // in cached_ids
  };
  Regex::Scratch regex;
  BpeScratch bpe;
  absl::flat_hash_map<std::string, Cached> cache;
  std::vector<int32_t> cached_ids;
};

BpeTokenizer::BpeTokenizer(Parts parts)
    : pre_tokenizer_(std::move(parts.pre_tokenizer)),
      vocabulary_(std::move(parts.vocabulary)),
      added_tokens_(std::move(parts.added_tokens)),
      merges_(std::move(parts.merges)),
      ignore_merges_(parts.ignore_merges),
      is_special_(vocabulary_.bytes.size(), false) {
  for (const AddedToken& token : added_tokens_.tokens()) {
    is_special_[static_cast<size_t>(token.id)] = token.special;
    id_of_added_.emplace(token.content, token.id);
  }
}

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::Encode(absl::string_view text, bool parse_special) const {
  if (text.size() > kLongestText) return UsageError("a text of ", text.size(), " bytes; the limit is ", kLongestText);
  std::string replaced;
  if (!IsWellFormedUtf8(text)) {
    replaced = Utf8WithReplacement(text);
    text = replaced;
    if (text.size() > kLongestText) return UsageError("a text of ", text.size(), " bytes; the limit is ", kLongestText);
  }
  std::vector<int32_t> ids;
  Work work;
  const auto encode_plain = [&](absl::string_view part) {
    return pre_tokenizer_.Split(part, work.regex, [&](absl::string_view piece) {
      EncodePieceCached(piece, work, &ids);
      return absl::OkStatus();
    });
  };
  if (!parse_special) {
    KOMPAKT_RETURN_IF_ERROR(encode_plain(text));
    return ids;
  }
  KOMPAKT_RETURN_IF_ERROR(added_tokens_.Split(text, [&](int32_t id, absl::string_view part) {
    if (id < 0) return encode_plain(part);
    ids.push_back(id);
    return absl::OkStatus();
  }));
  return ids;
}

void BpeTokenizer::EncodePieceCached(absl::string_view piece, Work& work, std::vector<int32_t>* ids) const {
  if (piece.size() > kLongestCachedPiece) return EncodePiece(piece, work, ids);
  if (const auto found = work.cache.find(piece); found != work.cache.end()) {
    const auto begin = work.cached_ids.begin() + static_cast<std::ptrdiff_t>(found->second.begin);
    ids->insert(ids->end(), begin, begin + static_cast<std::ptrdiff_t>(found->second.count));
    return;
  }
  const size_t before = ids->size();
  EncodePiece(piece, work, ids);
  if (work.cache.size() == kMostCachedPieces) return;
  work.cache.emplace(std::string(piece), Work::Cached{work.cached_ids.size(), ids->size() - before});
  work.cached_ids.insert(work.cached_ids.end(), ids->begin() + static_cast<std::ptrdiff_t>(before), ids->end());
}

void BpeTokenizer::EncodePiece(absl::string_view piece, Work& work, std::vector<int32_t>* ids) const {
  if (!merges_.has_value()) return EncodeByVocabulary(vocabulary_, piece, work.bpe, ids);
  if (ignore_merges_) {
    if (const auto whole = vocabulary_.id_of.find(piece); whole != vocabulary_.id_of.end()) {
      ids->push_back(whole->second);
      return;
    }
  }
  merges_->Encode(vocabulary_, piece, work.bpe, ids);
}

absl::string_view BpeTokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= size()) return {};
  return vocabulary_.bytes[static_cast<size_t>(id)];
}

bool BpeTokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < size() && is_special_[static_cast<size_t>(id)];
}

int32_t BpeTokenizer::IdOf(absl::string_view token_text) const {
  if (const auto added = id_of_added_.find(token_text); added != id_of_added_.end()) return added->second;
  const auto found = vocabulary_.id_of.find(token_text);
  return found == vocabulary_.id_of.end() ? -1 : found->second;
}

}  // namespace kompakt
