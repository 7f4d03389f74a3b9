// kompakt tokenize MODEL|FOLDER -f TEXT | -p STRING | --decode IDS [--no-special]
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "format/status.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer.h"
#include "tools/json_text.h"
#include "tools/model_input.h"
#include "tools/terminal.h"
#include "tools/verbs.h"

namespace kompakt {
namespace {

class TokenizeVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("model,-m,--model", model_, "A .kpk file, or a folder that holds a tokenizer")->required();
    CLI::Option* file =
        app.add_option("-f,--file", file_, "Text file (its bytes are taken as they are); - reads stdin");
    CLI::Option* prompt = app.add_option("-p,--prompt", prompt_, "The text itself")->excludes(file);
    app.add_option("--decode", decode_, "Token ids to turn into text: 1,2,3 or @FILE")
        ->excludes(file)
        ->excludes(prompt);
    app.add_flag("--no-special", no_special_,
                 "Encoding: special tokens in the text are plain text. Decoding: leave them out");
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(const ModelAssets assets, OpenAssets(model_));
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(assets));
    if (decode_.has_value()) return Decode(*tokenizer);
    std::string text;
    if (prompt_.has_value()) {
      text = *prompt_;
    } else if (file_.has_value()) {
      KOMPAKT_ASSIGN_OR_RETURN(text, ReadTextFile(*file_));
    } else {
      return UsageError("tokenize needs a text: -f FILE, -p STRING, or --decode IDS");
    }
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(text, !no_special_));
    if (json_) {
      PrintAnswer(JsonText({{"ids", ids}, {"pieces", Pieces(*tokenizer, ids)}}, -1));
    } else {
      PrintAnswer(absl::StrCat(absl::StrJoin(ids, ","), "\n"));
    }
    return kExitYes;
  }

 private:
  // What a streaming decoder prints at each token; the last piece takes what it still held back.
  static std::vector<std::string> Pieces(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
    StreamDecoder decoder(tokenizer);
    std::vector<std::string> pieces;
    for (const int32_t id : ids) pieces.push_back(decoder.Next(id));
    if (!pieces.empty()) pieces.back() += decoder.Flush();
    return pieces;
  }

  absl::StatusOr<ExitCode> Decode(const Tokenizer& tokenizer) {
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseIds(*decode_));
    for (const int32_t id : ids) {
      if (id >= tokenizer.size()) {
        return UsageError("--decode: id ", id, " has no token; the largest is ", tokenizer.size() - 1);
      }
    }
    const std::string text = tokenizer.Decode(ids, no_special_);
    if (json_) {
      PrintAnswer(JsonText({{"text", text}, {"ids", ids}, {"pieces", Pieces(tokenizer, ids)}}, -1));
    } else {
      PrintRaw(isatty(STDOUT_FILENO) != 0 ? text + "\n" : text);
    }
    return kExitYes;
  }

  std::string model_;
  std::optional<std::string> file_, prompt_, decode_;
  bool no_special_ = false;
};

}  // namespace

std::unique_ptr<Verb> MakeTokenizeVerb() { return std::make_unique<TokenizeVerb>(); }

}  // namespace kompakt
