#include "kernels/op_list.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"

// A new enumerator must not pass unnoticed, whatever the build's other warnings are.
#pragma GCC diagnostic error "-Wswitch"

namespace kompakt {
namespace {

// Shapes: rows are output channels.
constexpr OpShape kMatrices[] = {
    {.model = "v2-lite", .part = "q_proj", .rows = 3072, .cols = 2048},
    {.model = "v2-lite", .part = "kv_a_proj", .rows = 576, .cols = 2048},
    {.model = "v2-lite", .part = "o_proj", .rows = 2048, .cols = 2048},
    {.model = "v2-lite", .part = "lm_head", .rows = 102400, .cols = 2048},
    {.model = "wide", .part = "dense", .rows = 8192, .cols = 2048},
    {.model = "v3", .part = "q_a_proj", .rows = 1536, .cols = 7168},
    {.model = "v3", .part = "q_b_proj", .rows = 24576, .cols = 1536},
    {.model = "v3", .part = "o_proj", .rows = 7168, .cols = 16384},
    {.model = "fixture", .part = "tiny-v3", .rows = 192, .cols = 128, .timed = false},
    {.model = "fixture", .part = "small", .rows = 72, .cols = 136, .timed = false},
    {.model = "tail", .part = "one", .rows = 1, .cols = 1, .timed = false},
    {.model = "tail", .part = "short", .rows = 15, .cols = 31, .timed = false},
    {.model = "tail", .part = "past", .rows = 17, .cols = 33, .timed = false},
    {.model = "tail", .part = "odd", .rows = 70, .cols = 257, .timed = false},
};

// rows: the inner width.
constexpr OpShape kFfns[] = {
    {.model = "v2-lite", .part = "dense", .rows = 10944, .cols = 2048},
    {.model = "v2-lite", .part = "shared", .rows = 2816, .cols = 2048},
    {.model = "v3", .part = "shared", .rows = 2048, .cols = 7168},
    {.model = "v3", .part = "dense", .rows = 18432, .cols = 7168},
    {.model = "fixture", .part = "small", .rows = 72, .cols = 136, .timed = false},
    {.model = "tail", .part = "odd", .rows = 33, .cols = 70, .timed = false},
};

constexpr OpShape kExperts[] = {
    {.model = "v2-lite", .part = "experts", .rows = 1408, .cols = 2048, .experts = 64, .chosen = 6},
    // Of 256 experts, to fit into memory.
    {.model = "v3", .part = "16-experts", .rows = 2048, .cols = 7168, .experts = 16, .chosen = 8},
    {.model = "fixture", .part = "small", .rows = 72, .cols = 136, .experts = 4, .chosen = 2, .timed = false},
    {.model = "tail", .part = "odd", .rows = 33, .cols = 70, .experts = 7, .chosen = 3, .timed = false},
};

constexpr OpShape kRouters[] = {
    {.model = "v2-lite", .part = "router", .rows = 64, .cols = 2048, .experts = 64, .chosen = 6},
    {.model = "v3", .part = "router", .rows = 256, .cols = 7168, .experts = 256, .chosen = 8},
    {.model = "tail", .part = "odd", .rows = 7, .cols = 70, .experts = 7, .chosen = 3, .timed = false},
};

constexpr OpShape kTables[] = {
    {.model = "v2-lite", .part = "embed_tokens", .rows = 102400, .cols = 2048},
    {.model = "tail", .part = "odd", .rows = 45, .cols = 70, .timed = false},
};

constexpr OpShape kAttention[] = {
    {.model = "v2-lite", .part = "mla", .heads = 16, .nope = 128, .rope = 64, .value = 128, .rank = 512},
    {.model = "v3", .part = "mla", .heads = 128, .nope = 128, .rope = 64, .value = 128, .rank = 512},
    {.model = "fixture", .part = "small", .heads = 3, .nope = 24, .rope = 8, .value = 20, .rank = 48, .timed = false},
    {.model = "tail", .part = "odd", .heads = 3, .nope = 20, .rope = 6, .value = 13, .rank = 41, .timed = false},
};

constexpr OpShape kSparseAttention[] = {
    {.model = "v3.2",
     .part = "mla",
     .heads = 128,
     .nope = 128,
     .rope = 64,
     .value = 128,
     .rank = 512,
     .selected = 2048},
    {.model = "tail",
     .part = "odd",
     .heads = 3,
     .nope = 20,
     .rope = 6,
     .value = 13,
     .rank = 41,
     .selected = 9,
     .timed = false},
};

// cols: values per head of the indexer.
constexpr OpShape kIndexers[] = {
    {.model = "v3.2", .part = "indexer", .cols = 128, .heads = 64, .rope = 64, .selected = 2048},
    {.model = "tail", .part = "odd", .cols = 20, .heads = 5, .rope = 6, .selected = 9, .timed = false},
};

constexpr OpShape kRows[] = {
    {.model = "v2-lite", .part = "hidden", .cols = 2048, .heads = 16, .rope = 64},
    {.model = "v3", .part = "hidden", .cols = 7168, .heads = 128, .rope = 64},
    {.model = "tail", .part = "odd", .cols = 257, .heads = 3, .rope = 6, .timed = false},
};

constexpr OpShape kLatents[] = {
    {.model = "v2-lite", .part = "latent", .rope = 64, .rank = 512},
    {.model = "tail", .part = "odd", .rope = 6, .rank = 41, .timed = false},
};

constexpr int64_t kFromTheStart[] = {0};
constexpr int64_t kDepths[] = {0, 4096, 16384};
constexpr int64_t kDeep[] = {4096, 16384};
constexpr int64_t kAfterTheIndex[] = {16384};
constexpr int64_t kFewAndMany[] = {1, 8, 512};
constexpr int64_t kOneAndMany[] = {1, 512};
constexpr int64_t kOne[] = {1};
constexpr int64_t kMany[] = {512};

// Which formats an op's matrices are listed in.
enum class MatrixUse : uint8_t { kNone, kAny, kKvB, kRouter };

// The house rules of formats (quant/recipe.h): kv_b_proj has eight bits or more or is as upstream has it, the router is
// F32 or as upstream has it.
constexpr bool IsUsed(FormatId format, MatrixUse use) {
  switch (format) {
    case FormatId::kF32:
    case FormatId::kF16:
    case FormatId::kBf16:
      return true;
    case FormatId::kFp8B128:
    case FormatId::kInt4G32:
    case FormatId::kMxfp4:
    case FormatId::kNvfp4:
    case FormatId::kQ8G32:
      return use == MatrixUse::kAny || use == MatrixUse::kKvB;
    case FormatId::kQ4G32:
    case FormatId::kQ4G16:
    case FormatId::kQ6G32:
    case FormatId::kQ5G32:
    case FormatId::kQ3G32:
    case FormatId::kQ3G16:
    case FormatId::kQ2G32:
    case FormatId::kQ2G16:
      return use == MatrixUse::kAny;
  }
  return false;
}

// Which formats the latent cache of an op is listed in, beside F32: all of them with the format that recipes give
// kv_b_proj.
bool IsCached(OpId op, FormatId format) {
  switch (op) {
    case OpId::kLatentAppend:
    case OpId::kIndexAppend:
    case OpId::kIndexSelect:
      return true;
    case OpId::kMlaPrefill:
    case OpId::kMlaDecode:
    case OpId::kMlaSparse:
      return format == FormatId::kQ8G32;
    default:
      return false;
  }
}

struct OpRow {
  OpId op;
  absl::string_view name;
  MatrixUse use;
  absl::Span<const OpShape> shapes;
  absl::Span<const int64_t> tokens;
  absl::Span<const int64_t> positions;
};

constexpr ActPrecision kPrecisions[] = {ActPrecision::kF32, ActPrecision::kInt8, ActPrecision::kInt16};

constexpr std::array<OpRow, kOpCount> kOps = {{
    {OpId::kEmbed, "embed", MatrixUse::kAny, kTables, kMany, kFromTheStart},
    {OpId::kRmsNorm, "rms_norm", MatrixUse::kNone, kRows, kOneAndMany, kFromTheStart},
    {OpId::kLinear, "linear", MatrixUse::kAny, kMatrices, kFewAndMany, kFromTheStart},
    {OpId::kRope, "rope", MatrixUse::kNone, kRows, kOneAndMany, kFromTheStart},
    {OpId::kLatentAppend, "latent_append", MatrixUse::kNone, kLatents, kOneAndMany, kFromTheStart},
    {OpId::kMlaPrefill, "mla_prefill", MatrixUse::kKvB, kAttention, kMany, kDepths},
    {OpId::kMlaDecode, "mla_decode", MatrixUse::kKvB, kAttention, kOne, kDepths},
    {OpId::kIndexAppend, "index_append", MatrixUse::kNone, kIndexers, kOneAndMany, kFromTheStart},
    {OpId::kIndexSelect, "index_select", MatrixUse::kNone, kIndexers, kOne, kAfterTheIndex},
    {OpId::kMlaSparse, "mla_sparse", MatrixUse::kKvB, kSparseAttention, kOne, kDeep},
    {OpId::kRoute, "route", MatrixUse::kRouter, kRouters, kOneAndMany, kFromTheStart},
    {OpId::kFfn, "ffn", MatrixUse::kAny, kFfns, kFewAndMany, kFromTheStart},
    {OpId::kExpertFfn, "expert_ffn", MatrixUse::kAny, kExperts, kFewAndMany, kFromTheStart},
    {OpId::kAdd, "add", MatrixUse::kNone, kRows, kOneAndMany, kFromTheStart},
    {OpId::kAllFinite, "all_finite", MatrixUse::kNone, kRows, kOneAndMany, kFromTheStart},
}};

constexpr bool RowsAreComplete() {
  for (size_t i = 0; i < kOpCount; ++i) {
    if (kOps[i].op != static_cast<OpId>(i) || kOps[i].shapes.empty() || kOps[i].tokens.empty()) return false;
  }
  return true;
}
static_assert(RowsAreComplete(), "every op has a row, in the order of OpId, with shapes and token counts");

const OpRow& RowOf(OpId op) { return kOps[static_cast<size_t>(op)]; }

}  // namespace

absl::string_view NameOf(OpId op) { return RowOf(op).name; }

bool HasMatrix(OpId op) { return RowOf(op).use != MatrixUse::kNone; }

bool TakesActPrecision(OpId op) { return op == OpId::kLinear || op == OpId::kFfn || op == OpId::kExpertFfn; }

bool HasCache(OpId op) {
  return RowOf(op).use == MatrixUse::kKvB || op == OpId::kLatentAppend || op == OpId::kIndexAppend ||
         op == OpId::kIndexSelect;
}

absl::string_view NameOf(ActPrecision act) {
  switch (act) {
    case ActPrecision::kF32:
      return "f32";
    case ActPrecision::kInt8:
      return "int8";
    case ActPrecision::kInt16:
      return "int16";
  }
  return "";
}

std::string OpCase::Name() const {
  std::string name(NameOf(op));
  if (HasMatrix(op)) absl::StrAppend(&name, " ", FormatOf(format).name);
  if (TakesActPrecision(op)) absl::StrAppend(&name, " act=", NameOf(act));
  if (HasCache(op)) absl::StrAppend(&name, " kv=", CacheFormatName(cache));
  absl::StrAppend(&name, " ", shape.model, " ", shape.part);
  if (shape.rows > 0) absl::StrAppend(&name, " ", shape.rows, "x", shape.cols);
  absl::StrAppend(&name, " tokens=", tokens);
  if (RowOf(op).positions.size() > 1 || position > 0) absl::StrAppend(&name, " depth=", position);
  return name;
}

namespace {

// The case at every depth, with every number of tokens.
void AddTimes(const OpRow& row, OpCase c, std::vector<OpCase>* cases) {
  for (const int64_t position : row.positions) {
    c.position = position;
    for (const int64_t tokens : row.tokens) {
      c.tokens = tokens;
      cases->push_back(c);
    }
  }
}

}  // namespace

std::vector<OpCase> AllOpCases() {
  std::vector<OpCase> cases;
  for (const OpRow& row : kOps) {
    for (const OpShape& shape : row.shapes) {
      for (const BlockFormat& format : AllFormats()) {
        if (row.use == MatrixUse::kNone ? format.id != FormatId::kF32 : !IsUsed(format.id, row.use)) continue;
        OpCase c{.op = row.op, .shape = shape, .format = format.id};
        for (const ActPrecision act : kPrecisions) {
          if (act != ActPrecision::kF32 && !TakesActPrecision(row.op)) continue;
          c.act = act;
          for (const CacheFormat cache : AllCacheFormats()) {
            if (cache != CacheFormat::kF32 && !IsCached(row.op, format.id)) continue;
            c.cache = cache;
            AddTimes(row, c, &cases);
          }
        }
      }
    }
  }
  return cases;
}

OpCase Trimmed(OpCase c) {
  // A row tile and a half more than two; an expert without tokens; two blocks of the cache and a half.
  constexpr int64_t kRowsLeft = 40, kExpertsLeft = 6, kHeadsLeft = 2, kPositionLeft = 150, kSelectedLeft = 100;
  // Divide no block of tokens; the second is for real columns, which take the reference longer.
  constexpr int64_t kTokensLeft = 37, kTokensOfTimed = 13;
  if (c.op == OpId::kLinear || c.op == OpId::kEmbed) c.shape.rows = std::min(c.shape.rows, kRowsLeft);
  // Both sides of an FFN are columns of one of its matrices.
  if (c.op == OpId::kFfn || c.op == OpId::kExpertFfn) {
    c.shape.rows = std::min(c.shape.rows, int64_t{520});
    c.shape.cols = std::min(c.shape.cols, int64_t{264});
  }
  if (c.op == OpId::kExpertFfn) {
    c.shape.experts = std::min(c.shape.experts, kExpertsLeft);
    c.shape.chosen = std::min(c.shape.chosen, int64_t{3});
  }
  c.shape.heads = std::min(c.shape.heads, kHeadsLeft);
  c.shape.selected = std::min(c.shape.selected, kSelectedLeft);
  c.position = std::min(c.position, kPositionLeft);
  if (c.tokens > 1) c.tokens = c.shape.timed ? kTokensOfTimed : std::min(c.tokens, kTokensLeft);
  return c;
}

}  // namespace kompakt
