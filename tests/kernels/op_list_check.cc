#include "tests/kernels/op_list_check.h"

#include <cmath>
#include <cstddef>
#include <cstring>
#include <set>

#include "absl/strings/str_cat.h"
#include "kernels/op_list.h"
#include "kernels/op_run.h"

namespace kompakt {
namespace {

constexpr size_t kMostLines = 10;

double RootMeanSquare(const std::vector<float>& values) {
  double sum = 0;
  for (const float v : values) sum += static_cast<double>(v) * static_cast<double>(v);
  return values.empty() ? 0 : std::sqrt(sum / static_cast<double>(values.size()));
}

// Relative to the size of results. Inputs are normal, so the rounding errors of a sum add up like a random walk: 2^-24
// a step, some hundred times that after the thousands of steps of the longest sum. The inputs have been rounded to the
// case's precision beforehand, but what an FFN has in the middle has not: it is gate times up, whose largest of 32 is
// up to 8 times their size, so int8 codes are good to 8 / 127 / sqrt(12) = 1.8 % of it, and eight times that is not
// seen by chance. int16 has 256 times as many codes.
double Tolerance(const OpCase& c) {
  constexpr double kF32 = 1e-4, kInt8 = 0.15;
  if (c.op == OpId::kLinear || c.act == ActPrecision::kF32) return kF32;
  return c.act == ActPrecision::kInt8 ? kInt8 : kF32 + kInt8 / 256;
}

// Over a cache that is rounded, a set may multiply in bf16 (x86_attention_test.cc): values are of order 1, and their
// means within five roundings of 2^-9 of those.
constexpr double kBf16Tolerance = 5 * 0x1p-9;

struct Result {
  absl::Status status;
  std::vector<float> values;
  std::vector<int32_t> ids;
};

Result RunOn(const KernelSet& set, PreparedOp& op, KernelContext& context) {
  op.Reset();
  const absl::Status status = op.Run(set, context);
  return {status, op.values(), op.ids()};
}

// Empty where they agree.
std::string Difference(const Result& got, const Result& want, double tolerance) {
  if (!got.status.ok()) return std::string(got.status.message());
  if (got.ids != want.ids) return "other ids";
  for (size_t i = 0; i < want.values.size(); ++i) {
    if (std::fabs(static_cast<double>(got.values[i]) - static_cast<double>(want.values[i])) <= tolerance) continue;
    return absl::StrCat("value ", i, " is ", got.values[i], ", expected ", want.values[i], " +/- ", tolerance);
  }
  return "";
}

bool IsIntegerTail(const OpCase& c) {
  const bool product = c.op == OpId::kLinear || c.op == OpId::kFfn || c.op == OpId::kExpertFfn;
  const BlockFormat& format = FormatOf(c.format);
  return product && !c.shape.timed && c.act != ActPrecision::kF32 && (!format.exact || format.native_low_bit());
}

using AnyOp = void (*)();
// The ops of a set as an array, in the order of OpId.
AnyOp FunctionOf(const KernelSet& set, OpId op) {
  AnyOp function = nullptr;
  std::memcpy(
      &function,
      reinterpret_cast<const char*>(&set) + offsetof(KernelSet, embed) + static_cast<size_t>(op) * sizeof(AnyOp),
      sizeof(function));
  return function;
}

}  // namespace

std::vector<OpCase> CasesToCheck(OpsToCheck which) {
  std::vector<OpCase> cases;
  std::set<std::string> known;
  for (const OpCase& full : AllOpCases()) {
    OpCase c = Trimmed(full);
    if (which == OpsToCheck::kIntegerTails) {
      if (!IsIntegerTail(c)) continue;
      // One token, few, and enough for more than one block.
      c.tokens = c.tokens == 1 ? 1 : c.tokens < 13 ? 3 : 13;
    }
    OpCase nameless = c;
    if (c.shape.timed) nameless.shape.model = nameless.shape.part = "";
    if (known.insert(nameless.Name()).second) cases.push_back(c);
  }
  return cases;
}

bool HasOp(const KernelSet& set, OpId op) { return FunctionOf(set, op) != nullptr; }

std::vector<std::string> DisagreementsWithReference(absl::Span<const KernelSet* const> sets,
                                                    absl::Span<const OpCase> cases, int threads) {
  std::vector<std::string> lines;
  const KernelSet& reference = *AllKernelSets()[0];
  Workspace workspace;
  ThreadTeam team(threads);
  KernelContext context{.team = &team, .workspace = &workspace};
  OpArena arena;
  for (const OpCase& c : cases) {
    if (lines.size() >= kMostLines) break;
    const auto op = PreparedOp::Create(c, 0, arena, context);
    if (!op.ok()) {
      lines.push_back(absl::StrCat(c.Name(), ": ", op.status().message()));
      continue;
    }
    (*op)->RoundInputs();
    const Result want = RunOn(reference, **op, context);
    const double size = RootMeanSquare(want.values);
    const double tolerance = c.cache == CacheFormat::kF32 ? Tolerance(c) * size : kBf16Tolerance * (1 + size);
    std::set<AnyOp> tried = {FunctionOf(reference, c.op)};
    for (const KernelSet* const set : sets) {
      if (!tried.insert(FunctionOf(*set, c.op)).second) continue;
      const std::string difference = Difference(RunOn(*set, **op, context), want, tolerance);
      if (!difference.empty()) lines.push_back(absl::StrCat(set->name, ": ", c.Name(), ": ", difference));
    }
  }
  return lines;
}

}  // namespace kompakt
