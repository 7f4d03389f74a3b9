// KernelSet: the ops that a forward pass is written in, as one device or instruction set offers them.
//
// Every op takes a plain structure of pointers, counts and packed matrices. Shapes stand beside the pointers, innermost
// dimension last; `..._stride` counts floats from one token to the next. Inputs and outputs do not overlap unless it is
// said. T is the number of tokens of the call; every op accepts T >= 1.
//
// Every set computes the same formulas (DeepSeek-V2 report, section 2; DeepSeek-V3 report, section 2.1) and may differ
// from `reference` only by rounding. Within a set the result of a token depends neither on the thread count nor on the
// tokens beside it, bit for bit: reductions have a fixed order and are never split by thread.
//
// Where an op takes an ActPrecision, a set may round what the matrix multiplies to that many bits (activation.h). Every
// set but the integer ones computes in F32 whatever it says, and an integer set does where it has no integer product
// for the format of the weights.
//
// All ops fail with kResourceExhausted when scratch memory cannot be had, and with nothing else: shapes were checked
// when the model was loaded. They do not check for NaN, except `all_finite`.
#pragma once

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "format/block_format.h"
#include "kernels/activation.h"
#include "kernels/latent_cache.h"
#include "kernels/router.h"
#include "kernels/thread_team.h"
#include "kernels/workspace.h"

namespace kompakt {

// What a call may use. One context serves one call at a time.
struct KernelContext {
  ThreadTeam* team = nullptr;  // null: the calling thread only
  Workspace* workspace = nullptr;

  int threads() const { return team == nullptr ? 1 : team->threads(); }

  // body(task, thread) for every task; see ThreadTeam::Run. With `parallel` false all of them on the calling thread.
  template <typename Body>
  void Run(int64_t tasks, const Body& body, bool parallel = true) const {
    if (team != nullptr && parallel) {
      team->Run(tasks, body);
    } else {
      for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    }
  }

  // body(begin, end, thread) for [0, n) cut into pieces of `piece`.
  template <typename Body>
  void RunPieces(int64_t n, int64_t piece, const Body& body) const {
    Run((n + piece - 1) / piece, [&](int64_t task, int thread) {
      const int64_t begin = task * piece;
      body(begin, begin + piece < n ? begin + piece : n, thread);
    });
  }
};

// y[t] = row ids[t] of the table.
struct EmbedParams {
  MatrixView table;              // [vocab, h]
  const int32_t* ids = nullptr;  // [T], each within the table
  int64_t tokens = 0;            // T
  float* y = nullptr;            // [T, h]
};

// y = x / sqrt(mean(x^2) + eps) * weight. y may be x.
struct RmsNormParams {
  const float* x = nullptr;  // [T, width]
  int64_t x_stride = 0;
  const float* weight = nullptr;  // [width]
  double eps = 0;
  int64_t tokens = 0;
  int64_t width = 0;
  float* y = nullptr;  // [T, width]
  int64_t y_stride = 0;
};

// y = x W^T.
struct LinearParams {
  MatrixView w;              // [N, K]
  const float* x = nullptr;  // [T, K]
  int64_t x_stride = 0;
  int64_t tokens = 0;
  float* y = nullptr;  // [T, N]
  int64_t y_stride = 0;
  ActPrecision act = ActPrecision::kF32;  // of x
};

// Which two of `dim` rotary values form pair j.
enum class RotaryPairs : uint8_t {
  kAdjacent,  // 2j and 2j + 1
  kHalves,    // j and j + dim / 2
};

// Rotates pairs in place, pair j by the angle of position t and frequency j.
struct RopeParams {
  float* x = nullptr;       // first rotary value of head 0 of token 0
  int64_t x_stride = 0;     // to the next token
  int64_t head_stride = 0;  // to the next head
  int64_t heads = 0;
  int64_t dim = 0;                 // rotary values per head, even
  const float* cos_sin = nullptr;  // [T, dim / 2, 2]: cosine, sine
  int64_t tokens = 0;
  RotaryPairs pairs = RotaryPairs::kAdjacent;
};

// Appends T rows to the latent cache of one layer: RMSNorm of the first `rank` values, RoPE of the rest.
struct LatentAppendParams {
  const float* a = nullptr;            // [T, rank + rope]: output of kv_a_proj_with_mqa
  const float* norm_weight = nullptr;  // [rank]
  double eps = 0;
  const float* cos_sin = nullptr;  // [T, rope / 2, 2]
  int64_t tokens = 0;
  int64_t position = 0;  // row of the first token
  LatentCache cache;
};

// Multi-head latent attention of T tokens over rows [0, position + T) of the cache, causal: token t sees the rows up to
// position + t. Two forms of the same algebra (DeepSeek-V2 report, section 2.1.2).
struct MlaParams {
  int64_t heads = 0;      // H
  int64_t nope_dim = 0;   // dn
  int64_t rope_dim = 0;   // dr
  int64_t value_dim = 0;  // dv
  float softmax_scale = 0;
  MatrixView kv_b;           // [H (dn + dv), rank]; per head dn rows W_UK, then dv rows W_UV
  const float* q = nullptr;  // [T, H, dn + dr], rotated
  int64_t tokens = 0;
  int64_t position = 0;                   // of the first token
  LatentCache cache;                      // rows [0, position + T) are filled
  float* y = nullptr;                     // [T, H, dv]
  ActPrecision act = ActPrecision::kF32;  // of what kv_b multiplies
};

// Appends T rows to the key cache of an indexer: LayerNorm, then RoPE of the first `rope_dim` values.
struct IndexAppendParams {
  const float* a = nullptr;     // [T, dim]: output of wk
  const float* norm = nullptr;  // [dim]
  const float* bias = nullptr;  // [dim]
  double eps = 0;
  const float* cos_sin = nullptr;  // [T, rope_dim / 2, 2]
  int64_t rope_dim = 0;
  RotaryPairs pairs = RotaryPairs::kAdjacent;
  int64_t tokens = 0;
  int64_t position = 0;  // row of the first token
  IndexCache cache;
};

// For each token the `top_k` rows of the cache, of those up to its own, that score highest in
//     I(t, j) = scale * sum over heads of w(t, head) * relu(q(t, head) . k(j))
// (DeepSeek-V3.2 report, section 2.1). Equal scores: top_rows.h. A NaN counts as minus infinity.
struct IndexSelectParams {
  int64_t heads = 0;
  const float* q = nullptr;  // [T, heads, dim], rotated
  const float* w = nullptr;  // [T, heads]
  float scale = 0;
  int64_t top_k = 0;  // <= position + 1, so that every token has that many rows
  int64_t tokens = 0;
  int64_t position = 0;    // of the first token
  IndexCache cache;        // rows [0, position + T) are filled
  int32_t* ids = nullptr;  // [T, top_k] ascending
  bool* finite = nullptr;  // = no score was NaN or infinite
};

// Attention of each token over the rows that were selected for it, in the absorbed form.
struct MlaSparseParams {
  MlaParams mla;
  const int32_t* ids = nullptr;  // [T, selected] ascending, each <= position + t
  int64_t selected = 0;
};

// Scores x W^T in F32, then the choice of experts (router.h).
struct RouteParams {
  RouterRule rule;
  MatrixView w;                 // [E, h]
  const float* bias = nullptr;  // [E], or null
  const float* x = nullptr;     // [T, h]
  int64_t tokens = 0;
  int32_t* ids = nullptr;    // [T, K] ascending
  float* weights = nullptr;  // [T, K] of those experts, scaling factor included
  float* scores = nullptr;   // [T, E], or null: s of every expert, as router.h names it
};

// One gated FFN: down(silu(gate x) * (up x)).
struct FfnWeights {
  MatrixView gate;  // [inter, h]
  MatrixView up;    // [inter, h]
  MatrixView down;  // [h, inter]
};

// A dense FFN or the shared experts.
struct FfnParams {
  FfnWeights w;
  const float* x = nullptr;  // [T, h]
  int64_t tokens = 0;
  float* y = nullptr;                          // [T, h]
  bool accumulate = false;                     // y += ffn(x) instead of y = ffn(x)
  ActPrecision act = ActPrecision::kF32;       // of x
  ActPrecision down_act = ActPrecision::kF32;  // of silu(gate x) * (up x)
};

// The routed experts of a layer: y[t] = sum over k of weights[t, k] * ffn of expert ids[t, k], added in the order of
// ascending expert index.
//
// A call may be cut into parts, for experts that are not all in memory at once: only choices within [expert_begin,
// expert_end) count, and only the bytes of experts that have some are read (of the others the views need no data).
// Parts that ascend, the first without `accumulate` and the rest with it, give what one call gives, bit for bit.
struct ExpertFfnParams {
  const FfnWeights* experts = nullptr;  // [n_experts], all of the same shapes
  int64_t n_experts = 0;
  const int32_t* ids = nullptr;    // [T, K] ascending, distinct
  const float* weights = nullptr;  // [T, K]
  int64_t k = 0;
  const float* x = nullptr;  // [T, h]
  int64_t tokens = 0;
  float* y = nullptr;  // [T, h]
  int64_t expert_begin = 0;
  int64_t expert_end = std::numeric_limits<int64_t>::max();
  bool accumulate = false;                     // y += the sum instead of y = it
  ActPrecision act = ActPrecision::kF32;       // of x
  ActPrecision down_act = ActPrecision::kF32;  // of silu(gate x) * (up x)

  bool Counts(int32_t id) const { return id >= expert_begin && id < expert_end; }
};

// y += x.
struct AddParams {
  const float* x = nullptr;  // [n]
  float* y = nullptr;        // [n]
  int64_t n = 0;
};

// *finite = no value of x is NaN or infinite.
struct FiniteParams {
  const float* x = nullptr;  // [n]
  int64_t n = 0;
  bool* finite = nullptr;
};

// The instruction that a set multiplies matrices with when many tokens are there; what its speed is compared with
// (probe.h).
enum class ProductKind : uint8_t { kF32, kMaddubs256, kVnni256, kVnni512, kNeon, kDotprod, kI8mm };
inline constexpr size_t kProductKinds = 7;

struct KernelSet {
  absl::string_view name;
  absl::string_view description;
  // Can this machine run it?
  bool (*available)();
  // Of `linear`, `ffn` and `expert_ffn`: are the tiles of this format multiplied as they lie in the file, and are they
  // multiplied with activations that are rounded to integers? Null: none is; every format is decoded to F32 first.
  bool (*native)(FormatId) = nullptr;
  bool (*rounds)(FormatId) = nullptr;
  ProductKind product = ProductKind::kF32;

  // The ops. Each has a row in the op list (op_list.h), which tests and `kompakt bench --ops` walk.
  absl::Status (*embed)(const EmbedParams&, KernelContext&);
  absl::Status (*rms_norm)(const RmsNormParams&, KernelContext&);
  absl::Status (*linear)(const LinearParams&, KernelContext&);
  absl::Status (*rope)(const RopeParams&, KernelContext&);
  absl::Status (*latent_append)(const LatentAppendParams&, KernelContext&);
  // Plain form: decompresses keys and values of every cached row, block by block. Best for many tokens.
  absl::Status (*mla_prefill)(const MlaParams&, KernelContext&);
  // Absorbed form: queries are taken into the latent space instead. Best for few tokens.
  absl::Status (*mla_decode)(const MlaParams&, KernelContext&);
  absl::Status (*index_append)(const IndexAppendParams&, KernelContext&);
  absl::Status (*index_select)(const IndexSelectParams&, KernelContext&);
  absl::Status (*mla_sparse)(const MlaSparseParams&, KernelContext&);
  absl::Status (*route)(const RouteParams&, KernelContext&);
  absl::Status (*ffn)(const FfnParams&, KernelContext&);
  absl::Status (*expert_ffn)(const ExpertFfnParams&, KernelContext&);
  absl::Status (*add)(const AddParams&, KernelContext&);
  absl::Status (*all_finite)(const FiniteParams&, KernelContext&);
};

// Every set of this build, `reference` first, then by ascending preference (kernel_table.cc).
absl::Span<const KernelSet* const> AllKernelSets();
// Those of them that this machine runs.
absl::Span<const KernelSet* const> AvailableKernelSets();
// kInvalidArgument naming the known sets when there is none of that name or this machine cannot run it.
absl::StatusOr<const KernelSet*> KernelSetByName(absl::string_view name);
// The set named by the environment variable KOMPAKT_ISA (fails like KernelSetByName), else the best this machine runs.
absl::StatusOr<const KernelSet*> BestKernelSet();

}  // namespace kompakt
