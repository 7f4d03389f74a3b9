// kompakt bench --ops [--filter TEXT] [--list] [-t N,...] [-r N]
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "format/status.h"
#include "kernels/kernel_set.h"
#include "kernels/probe.h"
#include "tools/bench_ops.h"
#include "tools/json_text.h"
#include "tools/model_input.h"
#include "tools/terminal.h"
#include "tools/verbs.h"

namespace kompakt {
namespace {

// "1,2,8": each at least `least`, ascending and without repetition. kInvalidArgument naming `flag` and what is no
// number.
absl::StatusOr<std::vector<int64_t>> ParseNumbers(absl::string_view flag, const std::string& text, int64_t least) {
  std::set<int64_t> numbers;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(word, &number) || number < least) {
      return UsageError(flag, ": expected numbers of at least ", least, " separated by commas, found \"", text, "\"");
    }
    numbers.insert(number);
  }
  return std::vector<int64_t>(numbers.begin(), numbers.end());
}

class BenchVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_flag("--ops", ops_, "Measure single ops instead of a model");
    app.add_option("--filter", filter_,
                   "With --ops: only cases whose name has all these words, for example 'linear q4_g32 tokens=1'");
    app.add_flag("--list", list_, "With --ops: print which set supports which format, and measure nothing");
    app.add_option("-t,--threads", threads_, "Threads, several separated by commas (default: 1 and every processor)");
    app.add_option("-r,--repetitions", repetitions_, "Measurements of each case")->capture_default_str();
  }

  absl::StatusOr<ExitCode> Run() override {
    if (!ops_) return UsageError("expected --ops");
    if (repetitions_ < 1) return UsageError("-r must be at least 1, found ", repetitions_);
    if (list_) {
      PrintAnswer(json_ ? JsonText(SupportJson()) : SupportTable());
      return kExitYes;
    }
    OpBenchOptions options;
    options.repetitions = repetitions_;
    options.filter = filter_;
    KOMPAKT_ASSIGN_OR_RETURN(options.threads, Threads());
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<OpCase> cases, FilterOps(filter_));
    KOMPAKT_ASSIGN_OR_RETURN(const KernelSet* const set, BestKernelSet());
    nlohmann::ordered_json timings = nlohmann::ordered_json::array();
    if (!json_)
      PrintAnswer(absl::StrCat("kernels ", set->name, ": ", set->description, "; products by ", NameOf(set->product),
                               "\n\n", OpTableHead()));
    Progress progress("bench", "cases");
    const uint64_t total = cases.size() * options.threads.size();
    KOMPAKT_RETURN_IF_ERROR(TimeOps(*set, options, cases, [&](const OpTiming& timing) {
      timings.push_back(ToJson(timing));
      if (json_) {
        progress.Update(timings.size(), total);
      } else {
        PrintAnswer(OpTableLine(timing));
      }
    }));
    if (json_) PrintAnswer(JsonText({{"kernels", set->name}, {"product", NameOf(set->product)}, {"ops", timings}}));
    return kExitYes;
  }

 private:
  absl::StatusOr<std::vector<int>> Threads() const {
    if (threads_.empty()) {
      KOMPAKT_ASSIGN_OR_RETURN(const int all, ResolveThreads(0));
      return all == 1 ? std::vector<int>{1} : std::vector<int>{1, all};
    }
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int64_t> numbers, ParseNumbers("-t", threads_, 0));
    std::vector<int> threads;
    for (const int64_t n : numbers) {
      KOMPAKT_ASSIGN_OR_RETURN(const int resolved, ResolveThreads(static_cast<int>(std::min<int64_t>(n, 1025))));
      threads.push_back(resolved);
    }
    return threads;
  }

  bool ops_ = false;
  bool list_ = false;
  std::string filter_;
  std::string threads_;
  int repetitions_ = 7;
};

}  // namespace

std::unique_ptr<Verb> MakeBenchVerb() { return std::make_unique<BenchVerb>(); }

}  // namespace kompakt
