#include "tools/bench_ops.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "format/status.h"
#include "kernels/op_run.h"
#include "kernels/probe.h"
#include "tools/median.h"

namespace kompakt {
namespace {

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Sums of floats, whatever a set does with whole numbers elsewhere.
bool MultipliesFloats(OpId op) {
  return op == OpId::kMlaPrefill || op == OpId::kMlaDecode || op == OpId::kMlaSparse || op == OpId::kIndexSelect ||
         op == OpId::kRoute;
}

// How often the op has to run to fill a sample.
absl::StatusOr<int64_t> RunsPerSample(PreparedOp& op, const KernelSet& set, KernelContext& context, double seconds) {
  // The first run also takes scratch memory.
  KOMPAKT_RETURN_IF_ERROR(op.Run(set, context));
  for (int64_t runs = 1;; runs *= 2) {
    const auto start = Clock::now();
    for (int64_t i = 0; i < runs; ++i) KOMPAKT_RETURN_IF_ERROR(op.Run(set, context));
    const double elapsed = SecondsSince(start);
    if (elapsed >= seconds / 4) {
      return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(runs) * seconds / elapsed + 0.5));
    }
  }
}

absl::StatusOr<OpTiming> TimeOp(const KernelSet& set, const OpBenchOptions& options, const OpCase& c, OpArena& arena,
                                ReadProbe& read, KernelContext& context) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<PreparedOp> op,
                           PreparedOp::Create(c, BeyondCachesBytes(), arena, context));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t runs, RunsPerSample(*op, set, context, options.sample_seconds));
  const bool bounded = HasMatrix(c.op) || c.op == OpId::kIndexSelect;
  const ProductKind kind = MultipliesFloats(c.op) || c.act == ActPrecision::kF32 ? ProductKind::kF32 : set.product;
  double read_speed = read.Run(context, uint64_t{64} << 20);
  std::vector<double> seconds, bytes, products, reads, ceilings, fractions, memory_shares;
  for (int round = 0; round < options.repetitions; ++round) {
    OpCost cost;
    const auto start = Clock::now();
    for (int64_t i = 0; i < runs; ++i) {
      KOMPAKT_RETURN_IF_ERROR(op->Run(set, context));
      cost.bytes += op->cost().bytes;
      cost.products += op->cost().products;
    }
    const double elapsed = SecondsSince(start);
    seconds.push_back(elapsed / static_cast<double>(runs));
    bytes.push_back(static_cast<double>(cost.bytes) / elapsed);
    products.push_back(static_cast<double>(cost.products) / elapsed);
    read_speed = read.Run(context, static_cast<uint64_t>(read_speed * options.sample_seconds));
    reads.push_back(read_speed);
    const double ceiling =
        bounded && cost.products > 0 ? ProductsPerSecond(kind, context, options.sample_seconds / 4) : 0;
    ceilings.push_back(ceiling);
    memory_shares.push_back(bytes.back() / read_speed);
    fractions.push_back(std::max(memory_shares.back(), ceiling > 0 ? products.back() / ceiling : 0));
  }
  OpTiming timing;
  timing.name = c.Name();
  timing.threads = context.threads();
  timing.seconds = Median(seconds);
  timing.bytes_per_second = Median(bytes);
  timing.products_per_second = Median(products);
  timing.read_probe = Median(reads);
  timing.product_probe = Median(ceilings);
  if (bounded) {
    timing.fraction = Median(fractions);
    timing.least = *std::min_element(fractions.begin(), fractions.end());
    timing.most = *std::max_element(fractions.begin(), fractions.end());
    timing.memory_bound = Median(memory_shares) >= timing.fraction;
  }
  return timing;
}

bool Matches(const std::string& name, const std::string& filter) {
  const std::vector<std::string> words = absl::StrSplit(name, ' ');
  for (const absl::string_view wanted : absl::StrSplit(filter, ' ', absl::SkipEmpty())) {
    const bool found = std::any_of(words.begin(), words.end(), [&](const std::string& word) {
      return absl::StrContains(wanted, '=') ? word == wanted : absl::StrContains(word, wanted);
    });
    if (!found) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::vector<OpCase>> FilterOps(const KernelSet& set, const std::string& filter) {
  std::vector<OpCase> left;
  for (const OpCase& c : AllOpCases()) {
    if (c.act != ActPrecision::kF32 && (set.rounds == nullptr || !set.rounds(c.format))) continue;
    if (c.shape.timed && Matches(c.Name(), filter)) left.push_back(c);
  }
  if (left.empty()) {
    std::vector<absl::string_view> ops;
    for (size_t i = 0; i < kOpCount; ++i) ops.push_back(NameOf(static_cast<OpId>(i)));
    return UsageError("--filter \"", filter, "\" leaves no case; a case's name reads like \"", AllOpCases()[0].Name(),
                      "\", and the ops are ", absl::StrJoin(ops, ", "));
  }
  return left;
}

absl::Status TimeOps(const KernelSet& set, const OpBenchOptions& options, const std::vector<OpCase>& cases,
                     const std::function<void(const OpTiming&)>& report) {
  OpArena arena;
  for (const int threads : options.threads) {
    ThreadTeam team(threads);
    Workspace workspace;
    KernelContext context{.team = &team, .workspace = &workspace};
    KOMPAKT_ASSIGN_OR_RETURN(ReadProbe read, ReadProbe::Create(context));
    for (const OpCase& c : cases) {
      KOMPAKT_ASSIGN_OR_RETURN(const OpTiming timing, TimeOp(set, options, c, arena, read, context));
      report(timing);
    }
  }
  return absl::OkStatus();
}

nlohmann::ordered_json ToJson(const OpTiming& t) {
  nlohmann::ordered_json json = {{"case", t.name},
                                 {"threads", t.threads},
                                 {"seconds", t.seconds},
                                 {"bytes_per_second", t.bytes_per_second},
                                 {"products_per_second", t.products_per_second},
                                 {"read_probe_bytes_per_second", t.read_probe},
                                 {"product_probe_per_second", t.product_probe}};
  if (t.fraction > 0) {
    json["bound"] = t.memory_bound ? "memory" : "products";
    json["fraction_of_bound"] = t.fraction;
    json["fraction_least"] = t.least;
    json["fraction_most"] = t.most;
  }
  return json;
}

std::string OpTableHead() {
  return absl::StrFormat("%-60s %3s %10s %8s %8s %8s %8s  %s\n", "case", "-t", "us", "GB/s", "of", "GOPS", "of",
                         "share of the bound");
}

std::string OpTableLine(const OpTiming& t) {
  std::string line = absl::StrFormat("%-60s %3d %10.1f %8.2f %8.1f", t.name, t.threads, t.seconds * 1e6,
                                     t.bytes_per_second * 1e-9, t.read_probe * 1e-9);
  if (t.product_probe > 0) {
    absl::StrAppendFormat(&line, " %8.1f %8.1f", t.products_per_second * 1e-9, t.product_probe * 1e-9);
  } else {
    absl::StrAppendFormat(&line, " %8s %8s", "", "");
  }
  if (t.fraction > 0) {
    absl::StrAppendFormat(&line, "  %.2f (%.2f to %.2f) %s", t.fraction, t.least, t.most,
                          t.memory_bound ? "memory" : "products");
  }
  return line + "\n";
}

namespace {

absl::string_view SupportOf(const KernelSet& set, const OpCase& c) {
  if (!TakesActPrecision(c.op)) return "yes";
  return set.native != nullptr && set.native(c.format) ? "native" : "decoded";
}

}  // namespace

std::string SupportTable() {
  std::string text;
  for (const KernelSet* set : AllKernelSets()) {
    absl::StrAppend(&text, set->name, ": ", set->description, set->available() ? "" : " (not on this machine)", "\n");
  }
  text +=
      "\nnative: multiplied as the tiles lie in the file; decoded: to F32 first; yes: the set has the op, whatever the "
      "format\n\n";
  absl::StrAppendFormat(&text, "%-14s %-10s", "op", "format");
  for (const KernelSet* set : AllKernelSets()) absl::StrAppendFormat(&text, " %-12s", set->name);
  text += "\n";
  const nlohmann::ordered_json support = SupportJson();
  for (const auto& row : support["ops"]) {
    absl::StrAppendFormat(&text, "%-14s %-10s", row["op"].get<std::string>(), row["format"].get<std::string>());
    for (const KernelSet* set : AllKernelSets()) {
      absl::StrAppendFormat(&text, " %-12s", row["sets"][std::string(set->name)].get<std::string>());
    }
    text += "\n";
  }
  return text;
}

nlohmann::ordered_json SupportJson() {
  nlohmann::ordered_json sets = nlohmann::ordered_json::array();
  for (const KernelSet* set : AllKernelSets()) {
    sets.push_back({{"name", set->name}, {"description", set->description}, {"available", set->available()}});
  }
  nlohmann::ordered_json ops = nlohmann::ordered_json::array();
  for (const OpCase& c : AllOpCases()) {
    const std::string format(HasMatrix(c.op) ? FormatOf(c.format).name : "-");
    if (std::any_of(ops.begin(), ops.end(), [&](const auto& row) {
          return row["op"] == std::string(NameOf(c.op)) && row["format"] == format;
        })) {
      continue;
    }
    nlohmann::ordered_json by_set;
    for (const KernelSet* set : AllKernelSets()) {
      by_set[std::string(set->name)] = std::string(SupportOf(*set, c));
    }
    ops.push_back({{"op", NameOf(c.op)}, {"format", format}, {"sets", by_set}});
  }
  return {{"sets", sets}, {"ops", ops}};
}

}  // namespace kompakt
