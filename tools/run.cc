// kompakt run MODEL -p PROMPT [-n N] [--chat] [--think on|off|auto] [--temp 0] ...
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "format/status.h"
#include "nlohmann/json.hpp"
#include "runtime/answer_stream.h"
#include "runtime/chat.h"
#include "runtime/expert_cache.h"
#include "runtime/sampler.h"
#include "runtime/session.h"
#include "runtime/tokenizer.h"
#include "tools/device_flags.h"
#include "tools/expert_report.h"
#include "tools/json_text.h"
#include "tools/model_input.h"
#include "tools/runtime_flags.h"
#include "tools/terminal.h"
#include "tools/verbs.h"
#include "validate/answer_energy.h"

namespace kompakt {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Logits, and what the sampler makes of them.
constexpr uint64_t kBytesPerLogit = 32;

enum class ShowThought { kShow, kHide, kDim };

// Prints an answer as it comes, with its thoughts shown, hidden or dimmed, and keeps both apart for --json.
class AnswerPrinter {
 public:
  AnswerPrinter(ShowThought show, bool print) : show_(show), print_(print) {}

  // False when stdout is gone.
  bool Print(const std::vector<AnswerPiece>& pieces) {
    bool written = true;
    for (const AnswerPiece& piece : pieces) {
      std::string text = piece.text;
      if (piece.is_thought) {
        thought_ += text;
      } else {
        // The blank lines between a thought and its answer belong to neither where the thought is hidden.
        if (answer_.empty() && !thought_.empty() && show_ == ShowThought::kHide) {
          text.erase(0, std::min(text.find_first_not_of(" \r\n"), text.size()));
        }
        answer_ += text;
      }
      if (!print_ || (piece.is_thought && show_ == ShowThought::kHide)) continue;
      if (piece.is_thought != dimmed_ && show_ == ShowThought::kDim) {
        written &= PrintRaw(piece.is_thought ? "\x1b[2m" : "\x1b[0m");
        dimmed_ = piece.is_thought;
      }
      written &= PrintRaw(text);
    }
    return written;
  }

  void Finish() {
    if (!print_) return;
    if (dimmed_) PrintRaw("\x1b[0m");
    PrintAnswer("\n");
  }

  const std::string& answer() const { return answer_; }
  const std::string& thought() const { return thought_; }

 private:
  ShowThought show_;
  bool print_;
  bool dimmed_ = false;
  std::string answer_, thought_;
};

struct Timing {
  int64_t prompt_tokens = 0;
  double prompt_seconds = 0;
  int64_t answer_tokens = 0;
  int64_t thought_tokens = 0;
  double answer_seconds = 0;
  int64_t forward_tokens = 0;  // of the answer, that went through the model
  // Only with --ram.
  std::optional<ExpertCacheStats> prompt_experts, answer_experts;
  // Of thought and answer also together: each may be too short for a figure.
  std::optional<double> prompt_joules, thought_joules, answer_joules, text_joules;
  std::string energy;  // what counted them, or why nothing did

  int64_t new_tokens() const { return thought_tokens + answer_tokens; }
  std::optional<double> JoulesPerToken() const {
    if (!text_joules.has_value() || new_tokens() == 0) return std::nullopt;
    return *text_joules / static_cast<double>(new_tokens());
  }
};

double PerSecond(int64_t tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }

// ru_maxrss is in kibibytes on Linux.
uint64_t PeakMemoryBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

class RunVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("model,-m,--model", model_path_, "A .kpk file, or a checkpoint folder to run as it is")->required();
    CLI::Option* prompt = app.add_option("-p,--prompt", prompt_, "The prompt");
    app.add_option("-f,--file", prompt_file_, "Read the prompt from this file; - reads stdin")->excludes(prompt);
    app.add_option("-n,--n-predict", max_new_, "Tokens to generate at most; -1: until the model stops or -c is full")
        ->capture_default_str();
    app.add_option("-c,--ctx-size", context_, "Tokens of prompt and answer together; 0 (default): what they need");
    DeclareRuntimeFlags(app, runtime_);
    DeclareActivationFlag(app, runtime_, "auto");
    DeclareCacheFlag(app, runtime_.kv, "bf16");
    DeclareRamLimitFlag(app, runtime_);
    DeclareDeviceFlags(app, runtime_.device, "auto");
    app.add_flag("--chat", chat_, "The prompt is a user's message; the model's chat template is put around it");
    app.add_option("--system", system_, "System message, with --chat");
    app.add_option("--chat-template", family_name_, "Chat template family, if not the model's own");
    app.add_option("--think", think_, "Think before answering, with --chat: on, off, auto (the model's default)")
        ->transform(CLI::CheckedTransformer(
            std::map<std::string, Thinking>{{"on", Thinking::kOn}, {"off", Thinking::kOff}, {"auto", Thinking::kAuto}}))
        ->default_str("auto");
    app.add_option("--thought", show_, "The thought part: show, hide, dim (default on a terminal: dim, else show)")
        ->transform(CLI::CheckedTransformer(std::map<std::string, ShowThought>{
            {"show", ShowThought::kShow}, {"hide", ShowThought::kHide}, {"dim", ShowThought::kDim}}));
    app.add_option("--temp", sampling_.temperature, "Temperature; 0 is greedy")->capture_default_str();
    app.add_option("--top-k", sampling_.top_k, "Keep the k likeliest tokens; 0: off")->capture_default_str();
    app.add_option("--top-p", sampling_.top_p, "Keep the likeliest tokens up to this probability; 1: off")
        ->capture_default_str();
    app.add_option("--min-p", sampling_.min_p, "Drop tokens below this share of the likeliest; 0: off")
        ->capture_default_str();
    app.add_option("--repeat-penalty", sampling_.repetition_penalty, "Penalty on recent tokens; 1: off")
        ->capture_default_str();
    app.add_option("--repeat-last-n", sampling_.repetition_window, "How many tokens are recent")->capture_default_str();
    app.add_option("-s,--seed", sampling_.seed, "Seed of the sampler; same seed, same text")->capture_default_str();
    app.add_flag("--ignore-eos", ignore_eos_, "Do not stop at the model's stop tokens");
    app.add_flag("--stats", stats_, "Print tokens, speed, thought tokens and peak memory on stderr");
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(const ModelOptions options, ResolveRuntimeFlags(runtime_));
    KOMPAKT_ASSIGN_OR_RETURN(Sampler sampler, Sampler::Create(sampling_));
    if (max_new_ < -1) return UsageError("-n must be -1 or more, found ", max_new_);
    if (context_ < 0) return UsageError("-c must be 0 or more, found ", context_);
    std::string prompt;
    if (prompt_.has_value()) {
      prompt = *prompt_;
    } else if (prompt_file_.has_value()) {
      KOMPAKT_ASSIGN_OR_RETURN(prompt, ReadTextFile(*prompt_file_));
    } else {
      return UsageError("run needs a prompt: -p TEXT or -f FILE");
    }
    if (!chat_ && (think_.has_value() || !system_.empty() || !family_name_.empty())) {
      return UsageError("--think, --system and --chat-template need --chat");
    }
    std::unique_ptr<Tokenizer> tokenizer;
    std::vector<int32_t> ids;
    int64_t room = 0;
    MemoryLimit limit;
    KOMPAKT_ASSIGN_OR_RETURN(limit.ram_bytes, RamLimitOf(runtime_));
    limit.need = [&](const ModelAssets& assets, const ArchSpec& arch) -> absl::StatusOr<SessionNeed> {
      assets_ = &assets;
      KOMPAKT_ASSIGN_OR_RETURN(tokenizer, Tokenizer::Create(assets));
      KOMPAKT_RETURN_IF_ERROR(ChooseFamily(arch, *tokenizer));
      KOMPAKT_ASSIGN_OR_RETURN(ids, PromptIds(*tokenizer, prompt));
      KOMPAKT_ASSIGN_OR_RETURN(room, Room(static_cast<int64_t>(ids.size()), arch));
      return SessionNeed{room, static_cast<uint64_t>(arch.vocab_size()) * kBytesPerLogit};
    };
    KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(model_path_, options, false, limit));
    assets_ = &loaded.assets;
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::Create(loaded.model, room));
    for (const int32_t id : ids) sampler.Observe(id);
    return Generate(*session, *tokenizer, sampler, ids);
  }

 private:
  // Without --chat the answer is plain text: a family without thoughts.
  absl::Status ChooseFamily(const ArchSpec& arch, const Tokenizer& tokenizer) {
    if (!chat_) return absl::OkStatus();
    if (!family_name_.empty()) {
      KOMPAKT_ASSIGN_OR_RETURN(family_, ChatFamilyByName(family_name_));
    } else {
      KOMPAKT_ASSIGN_OR_RETURN(family_, ChatFamilyOf(arch, *assets_));
    }
    // V3's template never thinks, but its tokenizer knows the words: R1 is the same model taught to use them.
    if (think_ == Thinking::kOn && family_->name == "deepseek-v3" && tokenizer.IdOf("<think>") >= 0) {
      KOMPAKT_ASSIGN_OR_RETURN(family_, ChatFamilyByName("deepseek-r1"));
      PrintNotice("note: the model's own template does not think; --think on takes that of deepseek-r1");
    }
    if (Verbose()) PrintNotice(absl::StrCat("chat template: ", family_->name));
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<int32_t>> PromptIds(const Tokenizer& tokenizer, const std::string& prompt) const {
    if (chat_) {
      std::vector<ChatMessage> messages;
      if (!system_.empty()) messages.push_back({"system", system_, "", {}});
      messages.push_back({"user", prompt, "", {}});
      KOMPAKT_ASSIGN_OR_RETURN(const std::string text,
                               family_->render(messages, true, think_.value_or(Thinking::kAuto)));
      if (Verbose()) PrintNotice(absl::StrCat("prompt: ", text));
      return tokenizer.Encode(text);
    }
    KOMPAKT_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer.Encode(prompt));
    const auto bos = static_cast<int32_t>(assets_->bos_id());
    if (assets_->has_bos_id() && (ids.empty() || ids.front() != bos)) ids.insert(ids.begin(), bos);
    if (ids.empty()) return UsageError("the prompt has no tokens");
    return ids;
  }

  absl::StatusOr<int64_t> Room(int64_t prompt_tokens, const ArchSpec& arch) const {
    const int64_t longest = arch.max_position_embeddings();
    int64_t room = context_ > 0 ? context_ : max_new_ >= 0 ? prompt_tokens + max_new_ : longest;
    if (context_ == 0) room = std::min(room, std::max(longest, prompt_tokens));
    if (prompt_tokens > room) {
      return UsageError("the prompt has ", prompt_tokens, " tokens, more than -c ", room);
    }
    if (room > longest) {
      PrintNotice(absl::StrCat("warning: ", room, " tokens exceed the model's max_position_embeddings ", longest));
    }
    return std::max<int64_t>(room, 1);
  }

  bool IsStop(int32_t id) const {
    return !ignore_eos_ &&
           std::count(assets_->stop_ids().begin(), assets_->stop_ids().end(), static_cast<uint32_t>(id)) > 0;
  }

  // What follows `ids`, and is not taken yet.
  static absl::StatusOr<int32_t> NextToken(Session& session, const Tokenizer& tokenizer, Sampler& sampler,
                                           absl::Span<const int32_t> ids) {
    if (sampler.greedy() && session.prefers_greedy()) return session.ForwardGreedy(ids, tokenizer.size());
    KOMPAKT_ASSIGN_OR_RETURN(const Session::Output out, session.Forward(ids, Session::Logits::kLast));
    return sampler.Next(out.logits, std::min(tokenizer.size(), std::ssize(out.logits)));
  }

  // What the token after those that the splitter has seen goes on with.
  static AnswerEnergy::Part PartOf(const AnswerSplitter& splitter) {
    if (splitter.in_thought()) return AnswerEnergy::Part::kThought;
    const bool begun = splitter.thought_tokens() + splitter.answer_tokens() > 0;
    return begun ? AnswerEnergy::Part::kAnswer : AnswerEnergy::Part::kUnknown;
  }

  absl::StatusOr<ExitCode> Generate(Session& session, const Tokenizer& tokenizer, Sampler& sampler,
                                    const std::vector<int32_t>& prompt_ids) {
    static constexpr ChatFamily kPlainText = {"plain text", "", "", nullptr, nullptr};
    const ChatFamily& family = chat_ ? *family_ : kPlainText;
    const bool in_thought = chat_ && family.opens_thought(think_.value_or(Thinking::kAuto));
    AnswerSplitter splitter(tokenizer, family, in_thought);
    const bool terminal = isatty(STDOUT_FILENO) != 0;
    AnswerPrinter printer(show_.value_or(terminal ? ShowThought::kDim : ShowThought::kShow), !json_);

    Timing timing;
    timing.prompt_tokens = static_cast<int64_t>(prompt_ids.size());
    AnswerEnergy energy{EnergyWatch(OpenEnergyMeter(session.model().options().device.get()))};
    const Clock::time_point start = Clock::now();
    KOMPAKT_ASSIGN_OR_RETURN(int32_t next, NextToken(session, tokenizer, sampler, prompt_ids));
    timing.prompt_seconds = SecondsSince(start);
    ExpertCache* const experts = session.model().weights().experts();
    if (experts != nullptr) timing.prompt_experts = experts->stats();
    energy.PromptEnds();
    energy.Continues(PartOf(splitter));

    const StopsByItself stops_by_itself;  // from here on there is an answer to finish
    std::vector<int32_t> generated;
    const char* stopped = "limit";
    bool open = true;  // stdout still takes text
    const Clock::time_point answer_start = Clock::now();
    while (open && (max_new_ < 0 || static_cast<int64_t>(generated.size()) < max_new_)) {
      if (Interrupted()) {
        stopped = "interrupted";
        break;
      }
      const int32_t id = next;
      if (IsStop(id)) {
        stopped = "stop token";
        break;
      }
      generated.push_back(id);
      open = printer.Print(splitter.Next(id));
      energy.Continues(PartOf(splitter));
      if (session.position() >= session.max_tokens()) {
        stopped = "context full";
        break;
      }
      if (max_new_ >= 0 && static_cast<int64_t>(generated.size()) == max_new_) break;
      KOMPAKT_ASSIGN_OR_RETURN(next, NextToken(session, tokenizer, sampler, {id}));
    }
    printer.Print(splitter.Flush());
    timing.answer_seconds = SecondsSince(answer_start);
    if (experts != nullptr) timing.answer_experts = experts->stats().Since(*timing.prompt_experts);
    timing.forward_tokens = session.position() - timing.prompt_tokens;
    energy.Ends();
    timing.prompt_joules = energy.prompt();
    timing.thought_joules = energy.thought();
    timing.answer_joules = energy.answer();
    timing.text_joules = energy.text();
    timing.energy = energy.Description();
    timing.thought_tokens = splitter.thought_tokens();
    timing.answer_tokens = splitter.answer_tokens();
    printer.Finish();
    if (json_) PrintAnswer(JsonText(Json(printer, timing, prompt_ids, generated, stopped)));
    if (stats_) PrintStats(timing, session, stopped);
    return Interrupted() ? absl::StatusOr<ExitCode>(kExitInterrupted) : absl::StatusOr<ExitCode>(kExitYes);
  }

  nlohmann::ordered_json Json(const AnswerPrinter& printer, const Timing& timing,
                              const std::vector<int32_t>& prompt_ids, const std::vector<int32_t>& generated,
                              const char* stopped) const {
    const auto number = [](std::optional<double> value) {
      return value.has_value() ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
    };
    nlohmann::ordered_json json = {{"text", printer.answer()},
                                   {"thought", printer.thought()},
                                   {"prompt_ids", prompt_ids},
                                   {"ids", generated},
                                   {"stopped_by", stopped},
                                   {"prompt_tokens", timing.prompt_tokens},
                                   {"thought_tokens", timing.thought_tokens},
                                   {"answer_tokens", timing.answer_tokens},
                                   {"prompt_tokens_per_second", PerSecond(timing.prompt_tokens, timing.prompt_seconds)},
                                   {"tokens_per_second", PerSecond(timing.new_tokens(), timing.answer_seconds)},
                                   {"prompt_joules", number(timing.prompt_joules)},
                                   {"thought_joules", number(timing.thought_joules)},
                                   {"answer_joules", number(timing.answer_joules)},
                                   {"joules_per_token", number(timing.JoulesPerToken())},
                                   {"energy", timing.energy},
                                   {"peak_memory_bytes", PeakMemoryBytes()}};
    if (timing.prompt_experts.has_value()) {
      json["experts"] = {{"prompt", ExpertJson(*timing.prompt_experts, timing.prompt_tokens)},
                         {"answer", ExpertJson(*timing.answer_experts, timing.forward_tokens)}};
    }
    return json;
  }

  static void PrintStats(const Timing& timing, const Session& session, const char* stopped) {
    PrintNoticeLines(absl::StrFormat(
        "prompt   %6d tokens  %8.1f tokens/s\nthought  %6d tokens\nanswer   %6d tokens  %8.1f tokens/s (thought "
        "included), "
        "ended by: %s\nmemory   %s at most, of which KV cache %s (%s)",
        timing.prompt_tokens, PerSecond(timing.prompt_tokens, timing.prompt_seconds), timing.thought_tokens,
        timing.answer_tokens, PerSecond(timing.new_tokens(), timing.answer_seconds), stopped,
        HumanBytes(PeakMemoryBytes()), HumanBytes(session.cache_bytes()),
        CacheFormatName(session.model().options().cache_format)));
    const std::optional<double> per_token = timing.JoulesPerToken();
    std::string energy;
    if (timing.prompt_joules.has_value())
      absl::StrAppendFormat(&energy, "%.1f J for the prompt, ", *timing.prompt_joules);
    const auto part = [&](const char* name, std::optional<double> joules) {
      if (joules.has_value() && timing.thought_tokens > 0)
        absl::StrAppendFormat(&energy, "%.1f J for the %s, ", *joules, name);
    };
    part("thought", timing.thought_joules);
    part("answer", timing.answer_joules);
    if (per_token.has_value()) absl::StrAppendFormat(&energy, "%.3f J per token; ", *per_token);
    PrintNotice(absl::StrCat("energy   ", energy, timing.energy));
    if (!timing.prompt_experts.has_value()) return;
    PrintNoticeLines(ExpertLine("experts of the prompt", *timing.prompt_experts, timing.prompt_tokens));
    PrintNoticeLines(ExpertLine("experts of the answer", *timing.answer_experts, timing.forward_tokens));
  }

  std::string model_path_, system_, family_name_;
  std::optional<std::string> prompt_, prompt_file_;
  std::optional<Thinking> think_;
  std::optional<ShowThought> show_;
  SamplerOptions sampling_;
  int64_t max_new_ = 256;
  int64_t context_ = 0;
  RuntimeFlags runtime_;
  bool chat_ = false;
  bool ignore_eos_ = false;
  bool stats_ = false;
  const ModelAssets* assets_ = nullptr;
  const ChatFamily* family_ = nullptr;
};

}  // namespace

std::unique_ptr<Verb> MakeRunVerb() { return std::make_unique<RunVerb>(); }

}  // namespace kompakt
