// The absorbed form. Three steps: queries into the latent space, per head; attention over the cache, in parts of fixed
// rows so that threads have work whatever the number of heads; the parts merged and brought out of the latent space,
// per head.
//
// Attention takes 16 pairs of token and head side by side, one per lane: a value of a cache row is broadcast to all of
// them, so scores need no sums across lanes, and neither does their softmax.
#if defined(__x86_64__)

#include <algorithm>
#include <cstring>

#include "format/status.h"
#include "kernels/sparse_mla.h"
#include "kernels/x86/mla_ops.h"
#include "kernels/x86/mla_rows.h"

namespace kompakt::x86 {
namespace {

constexpr int64_t kBlock = 64;        // cache rows between two steps of the softmax
constexpr int64_t kTokensAtOnce = 8;  // at most
constexpr uint64_t kMeansBytes = uint64_t{64} << 20;
constexpr float kLog2E = 1.44269504088896341f;

// Where part i of the cache begins: short parts first, so that threads share a short timeline too, longer ones later,
// so that a long one has few partial results. The same rows whatever the position of the token.
int64_t PartBegin(int64_t i) {
  if (i <= 8) return i * 64;
  if (i <= 20) return 512 + (i - 8) * 128;
  return 2048 + (i - 20) * 512;
}
int64_t PartsOf(int64_t rows) {
  int64_t parts = 0;
  while (PartBegin(parts) < rows) ++parts;
  return parts;
}

// Pairs (token, head) whose tokens attend to the same cache: all of a call, or those of one token of mla_sparse.
struct Problem {
  LatentCache cache;
  int64_t tokens = 0;
  int64_t seen = 0;  // rows that the first token sees; each further one sees one more
};

struct Job {
  const AttentionIsa& isa;
  const MlaParams& p;
  const float* q;  // [tokens, H, dn + dr]
  float* y;        // [tokens, H, dv]
  int64_t tokens = 0;
  const Problem* problems = nullptr;  // of problem_tokens tokens each
  int64_t n_problems = 0;
  int64_t problem_tokens = 0;

  // Sizes, and memory of the job.
  int64_t width_units = 0;  // of a cache row
  int64_t rank_pad = 0;     // rank in whole chunks of 32 columns
  int64_t groups = 0;       // of 16 pairs, per problem
  int64_t parts = 0;
  uint32_t* queries = nullptr;  // [problem][group][width_units][16]
  float* means = nullptr;       // [part][problem][group][16][rank_pad]
  float* largest = nullptr;     // [part][problem][group][16]
  float* sums = nullptr;        // [part][problem][group][16]

  int64_t group_index(int64_t part, int64_t problem, int64_t group) const {
    return (part * n_problems + problem) * groups + group;
  }
};

// What one thread needs, in floats.
struct Scratch {
  float* lanes;       // [head rows + 48]
  float* latent;      // [rank_pad + 32 columns of tiles]
  float* rows;        // cache rows as F32 or bf16, padded: [kBlock][row_values]
  float* padded;      // latent values of the rows in whole chunks, where rank is none: [kBlock][rank_pad]
  float* scores;      // [kBlock][16]
  uint32_t* weights;  // [kBlock][16]
  float* gathered;    // [16][width_units]: queries of a group before they are transposed

  static int64_t Floats(const Job& job) { return Place(job, nullptr, nullptr); }
  static int64_t Place(const Job& job, float* base, Scratch* out) {
    const MlaParams& p = job.p;
    const int64_t head = p.nope_dim + p.value_dim + 48;
    const int64_t cols = p.kv_b.layout.col_tiles * kTileCols + p.cache.rope + 2;
    const int64_t sizes[] = {head,
                             std::max(cols, job.rank_pad),
                             kBlock * (p.cache.width() + 1),
                             kBlock * job.rank_pad,
                             kBlock * kLanes,
                             kBlock * kLanes,
                             kLanes * (p.cache.width() + 1)};
    float* pieces[7];
    int64_t total = 0;
    for (int i = 0; i < 7; ++i) {
      pieces[i] = base == nullptr ? nullptr : base + total;
      total += RoundUp(sizes[i], kLanes);
    }
    if (out != nullptr) {
      *out = {pieces[0], pieces[1], pieces[2], pieces[3], pieces[4], reinterpret_cast<uint32_t*>(pieces[5]), pieces[6]};
    }
    return total;
  }
};

// q^ = W_UK^T q of one head and the rotary part beside it, scaled for a softmax in powers of two, as one lane of its
// group.
void AbsorbQuery(const Job& job, int64_t token, int64_t head, const Scratch& s) {
  const MlaParams& p = job.p;
  const float* const q = job.q + (token * p.heads + head) * (p.nope_dim + p.rope_dim);
  const int64_t row = head * (p.nope_dim + p.value_dim);
  // The next head is mostly the same thread's.
  const int64_t next_row = row + p.nope_dim + p.value_dim;
  const bool more = token + 1 == job.tokens && next_row < p.kv_b.shape.rows;
  job.isa.absorb(p.kv_b, row, p.nope_dim, q, more ? p.kv_b.tile(next_row / kTileRows, 0) : nullptr, s.lanes, s.latent);
  std::memcpy(s.latent + p.cache.rank, q + p.nope_dim, static_cast<size_t>(p.rope_dim) * sizeof(float));
  const float scale = p.softmax_scale * kLog2E;
  for (int64_t i = 0; i < p.cache.width(); ++i) s.latent[i] *= scale;
  const int64_t problem = token / job.problem_tokens;
  const int64_t pair = token % job.problem_tokens * p.heads + head;
  auto* const units = reinterpret_cast<uint32_t*>(s.gathered);
  job.isa.to_units(s.latent, p.cache.width(), units);
  uint32_t* const out =
      job.queries + job.group_index(0, problem, pair / kLanes) * job.width_units * kLanes + pair % kLanes;
  for (int64_t k = 0; k < job.width_units; ++k) out[k * kLanes] = units[k];
}

// Groups [group_begin, group_end) of a problem over the rows of one part.
void AttendPart(const Job& job, int64_t part, int64_t problem_index, int64_t group_begin, int64_t group_end,
                const Scratch& s) {
  const MlaParams& p = job.p;
  const AttentionIsa& isa = job.isa;
  const Problem& problem = job.problems[problem_index];
  const int64_t base = job.group_index(part, problem_index, 0);
  std::fill(job.largest + (base + group_begin) * kLanes, job.largest + (base + group_end) * kLanes, kUnseen);
  std::fill(job.sums + (base + group_begin) * kLanes, job.sums + (base + group_end) * kLanes, 0.0f);
  std::fill(job.means + (base + group_begin) * kLanes * job.rank_pad,
            job.means + (base + group_end) * kLanes * job.rank_pad, 0.0f);
  const int64_t part_end = std::min(PartBegin(part + 1), problem.seen + problem.tokens - 1);
  for (int64_t begin = PartBegin(part); begin < part_end; begin += kBlock) {
    const int64_t n = std::min(kBlock, part_end - begin);
    const CacheUnits rows = ReadUnits(isa, problem.cache, begin, begin + n, s.rows);
    const bool padded = p.cache.rank % (2 * kLanes) != 0;
    if (padded) PadLatent(isa, rows, n, p.cache.rank, job.rank_pad, s.padded);
    for (int64_t group = group_begin; group < group_end; ++group) {
      // Rows that each lane sees of this block; a lane without a pair sees all, and nobody looks at it.
      int32_t seen[kLanes];
      int32_t most = 0;
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const int64_t token = (group * kLanes + lane) / p.heads;
        seen[lane] = static_cast<int32_t>(
            token < problem.tokens ? std::clamp<int64_t>(problem.seen + token - begin, 0, n) : most);
        most = std::max(most, seen[lane]);
      }
      if (most == 0) continue;
      const int64_t at = base + group;
      // The next block is read while this one is multiplied, half in each product.
      const bool more = rows.in_place && group == group_begin && begin + 2 * kBlock <= part_end;
      const auto* const next = more ? reinterpret_cast<const uint8_t*>(rows.units + kBlock * rows.row_units) : nullptr;
      isa.multiply({.a = rows.units,
                    .a_row = rows.row_units,
                    .a_k = 1,
                    .b = job.queries + job.group_index(0, problem_index, group) * job.width_units * kLanes,
                    .rows = n,
                    .k = job.width_units,
                    .c = s.scores,
                    .c_row = kLanes,
                    .next = next});
      float keep[kLanes];
      isa.softmax_columns(s.scores, n, seen, job.largest + at * kLanes, job.sums + at * kLanes, keep, s.weights);
      float* const means = job.means + at * kLanes * job.rank_pad;
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        if (keep[lane] != 1.0f) isa.scale(means + lane * job.rank_pad, job.rank_pad, keep[lane]);
      }
      isa.multiply_rows({.a = s.weights,
                         .a_row = 1,
                         .a_k = kLanes,
                         .b = padded ? static_cast<const void*>(s.padded) : rows.units,
                         .b_k = padded ? job.rank_pad : rows.row_units * isa.unit_values,
                         .n_b = n,
                         .rows = kLanes,
                         .chunks = job.rank_pad / (2 * kLanes),
                         .c = means,
                         .c_row = job.rank_pad,
                         .next = more ? next + kBlock * rows.row_units * 2 : nullptr});
    }
  }
}

// Merges the parts of one pair and takes the mean out of the latent space: o = W_UV o^.
void MergePair(const Job& job, int64_t token, int64_t head, const Scratch& s) {
  const MlaParams& p = job.p;
  const int64_t problem = token / job.problem_tokens;
  const int64_t pair = token % job.problem_tokens * p.heads + head;
  const auto at = [&](int64_t part) { return job.group_index(part, problem, pair / kLanes) * kLanes + pair % kLanes; };
  // The parts that this token sees.
  const int64_t parts = PartsOf(job.problems[problem].seen + token % job.problem_tokens);
  float largest = kUnseen;
  for (int64_t part = 0; part < parts; ++part) largest = std::max(largest, job.largest[at(part)]);
  std::fill_n(s.latent, job.rank_pad, 0.0f);
  float sum = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const float weight = job.isa.exp2(job.largest[at(part)] - largest);
    sum += weight * job.sums[at(part)];
    job.isa.add_scaled(s.latent, job.means + at(part) * job.rank_pad, job.rank_pad, weight);
  }
  for (int64_t i = 0; i < job.rank_pad; ++i) s.latent[i] /= sum;
  job.isa.order_columns(s.latent, job.rank_pad, 1, job.rank_pad / (2 * kLanes));
  // What lies past the rank meets padding of the tiles, which has any value.
  std::fill(s.latent + p.cache.rank, s.latent + p.kv_b.layout.col_tiles * kTileCols, 0.0f);
  job.isa.project(p.kv_b, head * (p.nope_dim + p.value_dim) + p.nope_dim, p.value_dim, s.latent, s.lanes,
                  job.y + (token * p.heads + head) * p.value_dim);
}

absl::Status RunJob(Job job, KernelContext& context) {
  const MlaParams& p = job.p;
  Workspace& workspace = *context.workspace;
  Workspace::Scope scope(workspace);
  job.width_units = CeilDiv(p.cache.width(), job.isa.unit_values);
  job.rank_pad = RoundUp(p.cache.rank, 2 * kLanes);
  job.groups = CeilDiv(job.problem_tokens * p.heads, kLanes);
  job.parts = PartsOf(job.problems[0].seen + job.problem_tokens - 1);
  const int64_t groups = job.n_problems * job.groups;
  KOMPAKT_ASSIGN_OR_RETURN(float* const queries, workspace.Floats(groups * job.width_units * kLanes));
  job.queries = reinterpret_cast<uint32_t*>(queries);
  KOMPAKT_ASSIGN_OR_RETURN(job.means, workspace.Floats(job.parts * groups * kLanes * job.rank_pad));
  KOMPAKT_ASSIGN_OR_RETURN(job.largest, workspace.Floats(job.parts * groups * kLanes));
  KOMPAKT_ASSIGN_OR_RETURN(job.sums, workspace.Floats(job.parts * groups * kLanes));
  const int64_t floats = Scratch::Floats(job);
  KOMPAKT_ASSIGN_OR_RETURN(float* const base, workspace.Floats(context.threads() * floats));
  const auto scratch_of = [&](int thread) {
    Scratch scratch;
    Scratch::Place(job, base + thread * floats, &scratch);
    return scratch;
  };
  // Lanes without a pair.
  if (job.problem_tokens * p.heads % kLanes != 0) std::fill_n(queries, groups * job.width_units * kLanes, 0.0f);

  // Tasks are heads, not pairs: the tiles of a head are read once for all tokens.
  const bool parallel = p.heads * (p.nope_dim + p.value_dim) * p.cache.rank >= int64_t{1} << 16;
  context.Run(
      p.heads,
      [&](int64_t head, int thread) {
        const Scratch scratch = scratch_of(thread);
        for (int64_t token = 0; token < job.tokens; ++token) AbsorbQuery(job, token, head, scratch);
      },
      parallel);
  // Groups are parted too where the cache alone would leave threads idle; each piece reads the rows for itself.
  const int64_t pieces = std::clamp<int64_t>(CeilDiv(2 * context.threads(), job.parts * job.n_problems), 1, job.groups);
  const int64_t groups_per_piece = CeilDiv(job.groups, pieces);
  const int64_t rows = job.problems[0].seen;
  context.Run(
      job.parts * job.n_problems * pieces,
      [&](int64_t task, int thread) {
        const int64_t group = task % pieces * groups_per_piece;
        const int64_t end = std::min(job.groups, group + groups_per_piece);
        const int64_t problem = task / pieces % job.n_problems;
        // Long parts first: what is left for the end is short.
        const int64_t part = job.parts - 1 - task / (pieces * job.n_problems);
        if (group < end) AttendPart(job, part, problem, group, end, scratch_of(thread));
      },
      groups * kLanes * rows * p.cache.width() >= int64_t{1} << 17);
  context.Run(
      p.heads,
      [&](int64_t head, int thread) {
        const Scratch scratch = scratch_of(thread);
        for (int64_t token = 0; token < job.tokens; ++token) MergePair(job, token, head, scratch);
      },
      parallel);
  return absl::OkStatus();
}

// Tokens of one job, so that its partial results stay within kMeansBytes; at least one.
int64_t TokensPerJob(const MlaParams& p, int64_t rows) {
  const auto per_token = static_cast<uint64_t>(PartsOf(rows) * RoundUp(p.heads, kLanes)) *
                         static_cast<uint64_t>(RoundUp(p.cache.rank, 2 * kLanes)) * sizeof(float);
  return std::clamp<int64_t>(static_cast<int64_t>(kMeansBytes / per_token), 1, kTokensAtOnce);
}

}  // namespace

absl::Status MlaDecodeWith(const AttentionIsa& isa, const MlaParams& p, KernelContext& context) {
  const int64_t step = TokensPerJob(p, p.position + p.tokens);
  for (int64_t token = 0; token < p.tokens; token += step) {
    const int64_t tokens = std::min(step, p.tokens - token);
    const Problem problem{.cache = p.cache, .tokens = tokens, .seen = p.position + token + 1};
    KOMPAKT_RETURN_IF_ERROR(RunJob({.isa = isa,
                                    .p = p,
                                    .q = p.q + token * p.heads * (p.nope_dim + p.rope_dim),
                                    .y = p.y + token * p.heads * p.value_dim,
                                    .tokens = tokens,
                                    .problems = &problem,
                                    .n_problems = 1,
                                    .problem_tokens = tokens},
                                   context));
  }
  return absl::OkStatus();
}

absl::Status MlaSparseWith(const AttentionIsa& isa, const MlaSparseParams& sparse, KernelContext& context) {
  const MlaParams& p = sparse.mla;
  return GatherAndAttend(
      sparse, TokensPerJob(p, sparse.selected),
      [&](int64_t token, int64_t tokens, const LatentCache* caches) {
        Problem problems[kTokensAtOnce];
        for (int64_t t = 0; t < tokens; ++t) problems[t] = {.cache = caches[t], .tokens = 1, .seen = sparse.selected};
        return RunJob({.isa = isa,
                       .p = p,
                       .q = p.q + token * p.heads * (p.nope_dim + p.rope_dim),
                       .y = p.y + token * p.heads * p.value_dim,
                       .tokens = tokens,
                       .problems = problems,
                       .n_problems = tokens,
                       .problem_tokens = 1},
                      context);
      },
      context);
}

}  // namespace kompakt::x86

#endif
