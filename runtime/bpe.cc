#include "runtime/bpe.h"

#include <algorithm>
#include <functional>

namespace kompakt {
namespace {

using Symbol = BpeScratch::Symbol;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// What a pair of symbols becomes: kNoRank when it does not merge.
constexpr uint32_t kNoRank = UINT32_MAX;

void FillSymbols(const BpeVocabulary& vocabulary, absl::string_view piece, std::vector<Symbol>* symbols) {
  symbols->clear();
  for (size_t i = 0; i < piece.size(); ++i) {
    const int32_t id = vocabulary.id_of_byte[static_cast<uint8_t>(piece[i])];
    if (id < 0) continue;
    const int32_t index = static_cast<int32_t>(symbols->size());
    symbols->push_back({id, static_cast<uint32_t>(i), index - 1, index + 1});
  }
  if (!symbols->empty()) symbols->back().next = -1;
}

// The one merging loop. Rank(left, right) gives the rank of a pair of symbols or kNoRank; ResultOf(rank) the id.
template <typename Rank, typename ResultOf>
void Merge(BpeScratch& scratch, const Rank& rank, const ResultOf& result_of) {
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<uint64_t>& heap = scratch.heap;
  const auto at = [&symbols](int32_t index) -> Symbol& { return symbols[static_cast<size_t>(index)]; };
  heap.clear();
  const auto pair_entry = [&](int32_t left) -> uint64_t {
    const uint32_t r = rank(at(left), at(at(left).next));
    return r == kNoRank ? UINT64_MAX : static_cast<uint64_t>(r) << 32 | static_cast<uint32_t>(left);
  };
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols.size()); ++i) {
    if (const uint64_t entry = pair_entry(i); entry != UINT64_MAX) heap.push_back(entry);
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](int32_t left) {
    const uint64_t entry = pair_entry(left);
    if (entry == UINT64_MAX) return;
    heap.push_back(entry);
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t entry = heap.back();
    heap.pop_back();
    const int32_t index = static_cast<int32_t>(static_cast<uint32_t>(entry));
    const int32_t result = result_of(static_cast<uint32_t>(entry >> 32));
    Symbol& left = at(index);
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = at(left.next);
    const uint32_t rank_now = rank(left, right);
    if (rank_now == kNoRank || result_of(rank_now) != result) continue;
    left.id = result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) at(left.next).previous = index;
    if (left.previous >= 0) push(left.previous);
    if (left.next >= 0) push(index);
  }
}

void AppendIds(const std::vector<Symbol>& symbols, std::vector<int32_t>* ids) {
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) ids->push_back(symbol.id);
  }
}

}  // namespace

void BpeVocabulary::Finish() {
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(static_cast<uint8_t>(byte));
    const auto found = id_of.find(absl::string_view(&c, 1));
    id_of_byte[byte] = found == id_of.end() ? -1 : found->second;
  }
  longest_bytes = 0;
  for (const auto& [token, id] : id_of) longest_bytes = std::max(longest_bytes, token.size());
}

void MergeList::Reserve(size_t merges) {
  rank_of_.reserve(merges);
  result_of_.reserve(merges);
}

void MergeList::Add(int32_t left, int32_t right, int32_t result) {
  rank_of_[PairKey(left, right)] = static_cast<uint32_t>(result_of_.size());
  result_of_.push_back(result);
}

void MergeList::Encode(const BpeVocabulary& vocabulary, absl::string_view piece, BpeScratch& scratch,
                       std::vector<int32_t>* ids) const {
  FillSymbols(vocabulary, piece, &scratch.symbols);
  Merge(
      scratch,
      [this](const Symbol& left, const Symbol& right) {
        const auto found = rank_of_.find(PairKey(left.id, right.id));
        return found == rank_of_.end() ? kNoRank : found->second;
      },
      [this](uint32_t rank) { return result_of_[rank]; });
  AppendIds(scratch.symbols, ids);
}

void EncodeByVocabulary(const BpeVocabulary& vocabulary, absl::string_view piece, BpeScratch& scratch,
                        std::vector<int32_t>* ids) {
  if (const auto whole = vocabulary.id_of.find(piece); whole != vocabulary.id_of.end()) {
    ids->push_back(whole->second);
    return;
  }
  FillSymbols(vocabulary, piece, &scratch.symbols);
  const std::vector<Symbol>& symbols = scratch.symbols;
  Merge(
      scratch,
      [&](const Symbol& left, const Symbol& right) {
        const size_t end = right.next < 0 ? piece.size() : symbols[static_cast<size_t>(right.next)].begin;
        const size_t bytes = end - left.begin;
        if (bytes > vocabulary.longest_bytes) return kNoRank;
        const auto found = vocabulary.id_of.find(piece.substr(left.begin, bytes));
        return found == vocabulary.id_of.end() ? kNoRank : static_cast<uint32_t>(found->second);
      },
      [](uint32_t rank) { return static_cast<int32_t>(rank); });
  AppendIds(scratch.symbols, ids);
}

}  // namespace kompakt
