// Byte-pair encoding of one piece: the bytes of the piece become symbols, and adjacent pairs are merged, lowest rank
// first, leftmost first among equals, until no pair has a rank. O(n log n) in the bytes of the piece.
//
// Two ways to rank a pair:
//   * by a merge list (tokenizer.json): rank = position in the list;
//   * by the vocabulary (tiktoken): rank = id of the token whose bytes are those of the pair.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace kompakt {

// Working memory of an encoder; one per thread.
struct BpeScratch {
  struct Symbol {
    int32_t id;              // -1: merged into the one before
    uint32_t begin;          // first byte in the piece
    int32_t previous, next;  // index of the neighbour, -1 at the ends
  };
  std::vector<Symbol> symbols;
  std::vector<uint64_t> heap;  // rank << 32 | index of the left symbol; smallest first
};

// A vocabulary of byte strings. Both maps are views of the strings in `bytes`, which must not change any more.
struct BpeVocabulary {
  std::vector<std::string> bytes;  // by id; empty where an id has no token
  absl::flat_hash_map<absl::string_view, int32_t> id_of;
  int32_t id_of_byte[256];  // -1: this byte has no token; it is dropped from the piece
  size_t longest_bytes = 0;

  // Call when `bytes` is complete: fills id_of_byte and longest_bytes from id_of.
  void Finish();
};

class MergeList {
 public:
  // `left` and `right` merge into `result` at the rank of the number of calls before. The same pair again replaces the
  // earlier one, as in the upstream library.
  void Add(int32_t left, int32_t right, int32_t result);
  void Reserve(size_t merges);

  // Appends the ids of `piece` to `ids`. An entry of the queue is applied when the pair that is now at its place has
  // the same result, whatever its rank: this is what the upstream library does, and it differs from the plain rule only
  // where two pairs have one result.
  // piece.size() < 2^31.
  void Encode(const BpeVocabulary& vocabulary, absl::string_view piece, BpeScratch& scratch,
              std::vector<int32_t>* ids) const;

 private:
  absl::flat_hash_map<uint64_t, uint32_t> rank_of_;  // left << 32 | right -> rank
  std::vector<int32_t> result_of_;                   // by rank
};

// Encoding by the ranks of the vocabulary itself: a piece that is a token is that token. Every byte must have a token.
void EncodeByVocabulary(const BpeVocabulary& vocabulary, absl::string_view piece, BpeScratch& scratch,
                        std::vector<int32_t>* ids);

}  // namespace kompakt
