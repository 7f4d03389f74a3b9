// The op list: every op of KernelSet with the shapes it is used in. It has three readers: the test that compares every
// set with `reference` (tests/kernels/op_list_test.cc), `kompakt bench --ops`, which measures, and
// `kompakt bench --ops --list`, which prints what each set supports.
//
// A new op without a row does not compile (the count of OpId is that of KernelSet's functions), nor does a new number
// format (op_list.cc switches over them).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "format/block_format.h"
#include "kernels/kernel_set.h"

namespace kompakt {

// In the order of KernelSet.
enum class OpId : uint8_t {
  kEmbed,
  kRmsNorm,
  kLinear,
  kRope,
  kLatentAppend,
  kMlaPrefill,
  kMlaDecode,
  kIndexAppend,
  kIndexSelect,
  kMlaSparse,
  kRoute,
  kFfn,
  kExpertFfn,
  kAdd,
  kAllFinite,
};
inline constexpr size_t kOpCount = 15;
static_assert(sizeof(KernelSet) - offsetof(KernelSet, embed) == kOpCount * sizeof(void (*)()),
              "an op of KernelSet has no OpId and no row in op_list.cc");

absl::string_view NameOf(OpId op);

// The sizes of one use of an op. Which of them an op looks at: the table in op_list.cc.
struct OpShape {
  absl::string_view model;  // whose: "v2-lite", "v3", "fixture", "tail", "issue"
  absl::string_view part;   // "q_proj"
  int64_t rows = 0;         // of a matrix [rows, cols]; of an FFN's gate: its inner width
  int64_t cols = 0;         // of a matrix; of an FFN: the hidden size; of ops without matrices: values per token
  int64_t experts = 0;      // routed ones
  int64_t chosen = 0;       // of them, per token
  int64_t heads = 0;
  int64_t nope = 0;
  int64_t rope = 0;
  int64_t value = 0;
  int64_t rank = 0;
  int64_t selected = 0;  // rows that an indexer chooses
  bool timed = true;     // measured by bench; else only checked
};

struct OpCase {
  OpId op = OpId::kAdd;
  OpShape shape;
  FormatId format = FormatId::kF32;       // of the matrices, where the op has some
  ActPrecision act = ActPrecision::kF32;  // of what those multiply
  CacheFormat cache = CacheFormat::kF32;  // of what the op keeps or attends to
  int64_t tokens = 1;
  int64_t position = 0;  // of the first token: rows of the cache before it
  // One word per property, for tables and filters: "linear q4_g32 act=int8 v2-lite o_proj 2048x2048 tokens=1".
  std::string Name() const;
};

// What one run of a case moves and computes.
struct OpCost {
  uint64_t bytes = 0;  // weights and cache rows that have to be read; of ops without either: everything read, written
  uint64_t products = 0;  // multiplications and additions, each as one
};

// Does the op multiply with a matrix in a format of the file, and does it take an ActPrecision for that?
bool HasMatrix(OpId op);
bool TakesActPrecision(OpId op);
// Does it write or read a cache?
bool HasCache(OpId op);
absl::string_view NameOf(ActPrecision act);

// Every case, grouped by op. Timed ones are as large as they are in the model; all of them can be made small.
std::vector<OpCase> AllOpCases();

// The case with fewer rows, experts and cache rows, but every column: as hard for a kernel's sums and tails, and small
// enough for the reference. What the test runs.
OpCase Trimmed(OpCase c);

}  // namespace kompakt
