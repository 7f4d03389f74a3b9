#include "runtime/answer_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"

namespace kompakt {
namespace {

constexpr absl::string_view kWhiteSpace = " \t\r\n";

// How many bytes at the end of `text` are a proper prefix of `marker`.
size_t PrefixAtEnd(absl::string_view text, absl::string_view marker) {
  for (size_t bytes = std::min(text.size(), marker.size() - 1); bytes > 0; --bytes) {
    if (absl::EndsWith(text, marker.substr(0, bytes))) return bytes;
  }
  return 0;
}

int32_t MarkerId(const Tokenizer& tokenizer, absl::string_view marker) {
  return marker.empty() ? -1 : tokenizer.IdOf(marker);
}

}  // namespace

AnswerSplitter::AnswerSplitter(const Tokenizer& tokenizer, const ChatFamily& family, bool in_thought)
    : tokenizer_(tokenizer),
      family_(family),
      begin_id_(MarkerId(tokenizer, family.think_begin)),
      end_id_(MarkerId(tokenizer, family.think_end)),
      state_(family.think_begin.empty() ? State::kAnswer
             : in_thought               ? State::kThoughtStart
                                        : State::kStart) {}

std::vector<AnswerPiece> AnswerSplitter::Next(int32_t id) {
  std::vector<AnswerPiece> pieces;
  if (InThought() || id == begin_id_) {
    ++thought_tokens_;
  } else {
    ++(state_ == State::kStart ? undecided_tokens_ : answer_tokens_);
  }
  if (id == begin_id_ && !InThought()) {
    // Even in the middle of an answer: nobody writes this token by chance.
    Absorb(utf8_.Flush(), false, &pieces);
    if (state_ == State::kStart && OnlyWhiteSpaceIsHeld()) {
      held_.clear();
      thought_tokens_ += std::exchange(undecided_tokens_, 0);
    }
    Absorb("", true, &pieces);
    state_ = State::kThought;
  } else if (id == end_id_ && InThought()) {
    Absorb(utf8_.Flush(), true, &pieces);
    state_ = State::kAnswer;
  } else if (id == begin_id_ || id == end_id_ || !tokenizer_.IsSpecial(id)) {
    Absorb(utf8_.Append(tokenizer_.TokenBytes(id)), false, &pieces);
  }
  return pieces;
}

std::vector<AnswerPiece> AnswerSplitter::Flush() {
  std::vector<AnswerPiece> pieces;
  Absorb(utf8_.Flush(), true, &pieces);
  return pieces;
}

bool AnswerSplitter::OnlyWhiteSpaceIsHeld() const {
  return held_.find_first_not_of(kWhiteSpace.data(), 0, kWhiteSpace.size()) == std::string::npos;
}

// Takes `text` and hands out what is certain; with `at_end`, everything.
void AnswerSplitter::Absorb(absl::string_view text, bool at_end, std::vector<AnswerPiece>* pieces) {
  held_.append(text.data(), text.size());
  if (state_ == State::kStart || state_ == State::kThoughtStart) {
    if (!DecideStart(at_end)) return;
  }
  if (state_ == State::kThought) {
    const size_t end = held_.find(family_.think_end.data(), 0, family_.think_end.size());
    if (end == std::string::npos) {
      const size_t certain = at_end ? held_.size() : held_.size() - PrefixAtEnd(held_, family_.think_end);
      Emit(true, absl::string_view(held_).substr(0, certain), pieces);
      held_.erase(0, certain);
      return;
    }
    Emit(true, absl::string_view(held_).substr(0, end), pieces);
    held_.erase(0, end + family_.think_end.size());
    state_ = State::kAnswer;
  }
  Emit(false, held_, pieces);
  held_.clear();
}

// Does the answer begin with a thought? False while nobody can know.
bool AnswerSplitter::DecideStart(bool at_end) {
  const absl::string_view held = held_;
  const size_t first = std::min(held.find_first_not_of(kWhiteSpace), held.size());
  const absl::string_view rest = held.substr(first);
  const bool opens = absl::StartsWith(rest, family_.think_begin);
  if (!opens && !at_end && absl::StartsWith(family_.think_begin, rest)) return false;
  if (opens) held_.erase(0, first + family_.think_begin.size());
  const bool thought = opens || state_ == State::kThoughtStart;
  (thought ? thought_tokens_ : answer_tokens_) += std::exchange(undecided_tokens_, 0);
  state_ = thought ? State::kThought : State::kAnswer;
  return true;
}

void AnswerSplitter::Emit(bool is_thought, absl::string_view text, std::vector<AnswerPiece>* pieces) {
  if (text.empty()) return;
  if (pieces->empty() || pieces->back().is_thought != is_thought) pieces->push_back({is_thought, ""});
  pieces->back().text.append(text.data(), text.size());
}

}  // namespace kompakt
