// PreTokenizer: cuts a text into the pieces that BPE then works on, one by one. It interprets the `pre_tokenizer` node
// of tokenizer.json: Sequence, Split, Digits, ByteLevel.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/regex.h"

namespace kompakt {

class PreTokenizer {
 public:
  // kUnimplemented naming the step, kDataLoss where a field is missing or of the wrong type. ByteLevel must be the last
  // step and the only one of its kind: vocabularies of other alphabets are not known here.
  static absl::StatusOr<PreTokenizer> FromJson(const nlohmann::json& node);
  // One Split by `pattern`, Isolated: what tiktoken does.
  static absl::StatusOr<PreTokenizer> FromPattern(absl::string_view pattern);

  // Calls `on_piece` with every piece of `text` (well-formed UTF-8), in order, none of them empty. A piece may live in
  // a buffer that the next one reuses. The pieces are not mapped to the byte-level alphabet: they are plain bytes.
  using PieceFunction = absl::FunctionRef<absl::Status(absl::string_view piece)>;
  absl::Status Split(absl::string_view text, Regex::Scratch& scratch, PieceFunction on_piece) const;

 private:
  enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    Regex regex;
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;
  };

  static absl::Status AppendSteps(const nlohmann::json& node, const std::string& path, PreTokenizer* out);
  static absl::Status AppendSplit(const nlohmann::json& node, const std::string& path, PreTokenizer* out);
  static absl::Status AppendPattern(absl::string_view pattern, Behavior behavior, bool invert, const std::string& path,
                                    PreTokenizer* out);

  absl::Status RunFrom(size_t step, absl::string_view text, Regex::Scratch& scratch, PieceFunction on_piece) const;
  absl::Status RunMerging(size_t step, absl::string_view text, Regex::Scratch& scratch, PieceFunction on_piece) const;

  std::vector<Step> steps_;
  size_t prefix_space_before_ = SIZE_MAX;  // the step (ByteLevel's own) before which add_prefix_space acts
  bool ends_in_byte_level_ = false;
};

}  // namespace kompakt
