// AnswerSplitter: which part of what a model writes is thought and which is answer, token by token.
//
// A thought stands at the start of an answer: the prompt opened it (ChatFamily::opens_thought), or the first thing the
// model writes besides white space is think_begin. It ends at the first think_end, or with the answer. The markers are
// found as one token or spelled in several; they, and white space before think_begin, belong to neither part. The token
// think_begin itself opens a thought anywhere; the same characters spelled out in the middle of an answer are just
// text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/chat.h"
#include "runtime/tokenizer.h"

namespace kompakt {

struct AnswerPiece {
  bool is_thought = false;
  std::string text;  // whole characters, never empty
};

class AnswerSplitter {
 public:
  // `in_thought`: the prompt ends inside a thought. Special tokens other than the markers are left out of the text.
  // The tokenizer and the family must outlive the splitter.
  AnswerSplitter(const Tokenizer& tokenizer, const ChatFamily& family, bool in_thought);

  std::vector<AnswerPiece> Next(int32_t id);  // text that is now certain, in order
  std::vector<AnswerPiece> Flush();           // the rest, at the end of the answer

  bool in_thought() const { return InThought(); }
  // Tokens given to Next: those of thoughts, their markers included, and all others. White space before a thought
  // counts with it.
  int64_t thought_tokens() const { return thought_tokens_; }
  int64_t answer_tokens() const { return answer_tokens_; }

 private:
  enum class State {
    kStart,         // nothing but white space so far: think_begin would open a thought
    kThoughtStart,  // the prompt opened the thought: think_begin once more is swallowed
    kThought,
    kAnswer,
  };

  bool InThought() const { return state_ == State::kThought || state_ == State::kThoughtStart; }
  bool OnlyWhiteSpaceIsHeld() const;
  void Absorb(absl::string_view text, bool at_end, std::vector<AnswerPiece>* pieces);
  bool DecideStart(bool at_end);
  static void Emit(bool is_thought, absl::string_view text, std::vector<AnswerPiece>* pieces);

  const Tokenizer& tokenizer_;
  const ChatFamily& family_;
  int32_t begin_id_, end_id_;  // -1: the tokenizer has no such token
  State state_;
  Utf8Stream utf8_;
  std::string held_;              // text that may be the beginning of a marker
  int64_t undecided_tokens_ = 0;  // tokens seen in kStart
  int64_t thought_tokens_ = 0;
  int64_t answer_tokens_ = 0;
};

}  // namespace kompakt
