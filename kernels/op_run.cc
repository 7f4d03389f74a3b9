#include "kernels/op_run.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "format/status.h"
#include "kernels/random_tiles.h"

#pragma GCC diagnostic error "-Wswitch"

namespace kompakt {
namespace {

constexpr uint64_t kFloatBytes = sizeof(float);

// What all prepared ops have: the case, weights, an input and an output.
class OpBase : public PreparedOp {
 public:
  OpBase(const OpCase& c, Weights weights) : c_(c), s_(c_.shape), t_(c.tokens), w_(std::move(weights)) {}

  void Reset() override {
    run_ = 0;
    std::fill(y_.begin(), y_.end(), std::nanf(""));
  }
  void RoundInputs() override {
    if (c_.act == ActPrecision::kF32 || s_.cols == 0) return;
    for (size_t at = 0; at < x_.size(); at += static_cast<size_t>(s_.cols)) {
      RoundRow(c_.act, absl::MakeSpan(x_).subspan(at, static_cast<size_t>(s_.cols)));
    }
  }
  OpCost cost() const override { return cost_; }
  std::vector<float> values() const override { return y_; }

 protected:
  const MatrixView* NextWeights() { return w_.of_run(run_++); }

  OpCase c_;
  const OpShape& s_;
  int64_t t_;
  Weights w_;
  uint64_t run_ = 0;
  std::vector<float> x_, y_;
  OpCost cost_;
};

class EmbedOp : public OpBase {
 public:
  EmbedOp(const OpCase& c, Weights w) : OpBase(c, std::move(w)) {
    for (int64_t t = 0; t < t_; ++t) ids_.push_back(static_cast<int32_t>((t * 7919 + 3) % s_.rows));
    y_.resize(static_cast<size_t>(t_ * s_.cols));
    cost_.bytes = w_.bytes / static_cast<uint64_t>(s_.rows) * static_cast<uint64_t>(t_);
  }
  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    return set.embed({.table = *NextWeights(), .ids = ids_.data(), .tokens = t_, .y = y_.data()}, context);
  }

 private:
  std::vector<int32_t> ids_;
};

class NormOp : public OpBase {
 public:
  explicit NormOp(const OpCase& c) : OpBase(c, {}), weight_(Normal(s_.cols, 1, 2)) {
    x_ = Normal(t_ * s_.cols, 1, 1);
    y_.resize(x_.size());
    cost_.bytes = Product({2, t_, s_.cols}) * kFloatBytes;
  }
  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    return set.rms_norm({.x = x_.data(),
                         .x_stride = s_.cols,
                         .weight = weight_.data(),
                         .eps = 1e-6,
                         .tokens = t_,
                         .width = s_.cols,
                         .y = y_.data(),
                         .y_stride = s_.cols},
                        context);
  }

 private:
  std::vector<float> weight_;
};

class LinearOp : public OpBase {
 public:
  LinearOp(const OpCase& c, Weights w) : OpBase(c, std::move(w)) {
    x_ = Normal(t_ * s_.cols, 1, 1);
    y_.resize(static_cast<size_t>(t_ * s_.rows));
    cost_ = {.bytes = w_.bytes, .products = Product({2, t_, s_.rows, s_.cols})};
  }
  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    return set.linear({.w = *NextWeights(),
                       .x = x_.data(),
                       .x_stride = s_.cols,
                       .tokens = t_,
                       .y = y_.data(),
                       .y_stride = s_.rows,
                       .act = c_.act},
                      context);
  }
};

class RopeOp : public OpBase {
 public:
  explicit RopeOp(const OpCase& c) : OpBase(c, {}), cos_sin_(Rotations(t_, s_.rope)) {
    cost_.bytes = Product({2, t_, s_.heads, s_.rope}) * kFloatBytes;
    RopeOp::Reset();
  }
  void Reset() override { y_ = Normal(t_ * s_.heads * s_.rope, 1, 1); }
  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    return set.rope({.x = y_.data(),
                     .x_stride = s_.heads * s_.rope,
                     .head_stride = s_.rope,
                     .heads = s_.heads,
                     .dim = s_.rope,
                     .cos_sin = cos_sin_.data(),
                     .tokens = t_},
                    context);
  }

 private:
  std::vector<float> cos_sin_;
};

class LatentAppendOp : public OpBase {
 public:
  LatentAppendOp(const OpCase& c, const LatentCache& cache)
      : OpBase(c, {}), cache_(cache), norm_(Normal(s_.rank, 1, 2)), cos_sin_(Rotations(t_, s_.rope)) {
    x_ = Normal(t_ * (s_.rank + s_.rope), 1, 1);
    cost_.bytes = Product({t_, s_.rank + s_.rope}) * kFloatBytes + static_cast<uint64_t>(t_) * cache_.row_bytes();
  }
  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    return set.latent_append({.a = x_.data(),
                              .norm_weight = norm_.data(),
                              .eps = 1e-6,
                              .cos_sin = cos_sin_.data(),
                              .tokens = t_,
                              .position = 0,
                              .cache = cache_},
                             context);
  }
  std::vector<float> values() const override {
    std::vector<float> scratch(static_cast<size_t>(t_ * cache_.width()));
    const float* const rows = LatentRows(cache_, 0, t_, scratch.data());
    return {rows, rows + t_ * cache_.width()};
  }

 private:
  LatentCache cache_;
  std::vector<float> norm_, cos_sin_;
};

enum class Attention : uint8_t { kPlain, kAbsorbed, kSparse };

class MlaOp : public OpBase {
 public:
  MlaOp(const OpCase& c, Weights w, Caches caches, Attention form)
      : OpBase(c, std::move(w)), caches_(std::move(caches)), form_(form) {
    x_ = Normal(t_ * s_.heads * (s_.nope + s_.rope), 1, 1);
    y_.resize(static_cast<size_t>(t_ * s_.heads * s_.value));
    const int64_t rows = form == Attention::kSparse ? s_.selected : c.position + t_;
    cost_.bytes = w_.bytes + static_cast<uint64_t>(rows) * caches_[0].row_bytes();
    if (form == Attention::kPlain) {
      // Causal: token t sees position + t + 1 rows.
      cost_.products = Product({2, s_.heads, rows, s_.rank, s_.nope + s_.value}) +
                       Product({s_.heads, t_, 2 * c.position + t_ + 1, s_.nope + s_.rope + s_.value});
    } else {
      cost_.products = Product({2, t_, s_.heads, s_.rank, s_.nope + s_.value}) +
                       Product({2, t_, s_.heads, rows, 2 * s_.rank + s_.rope});
    }
    for (int64_t t = 0; form == Attention::kSparse && t < t_; ++t) {
      for (int64_t i = 0; i < s_.selected; ++i) {
        ids_.push_back(static_cast<int32_t>(i * (c.position + 1) / s_.selected));
      }
    }
  }

  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    const LatentCache& cache = caches_[run_ % caches_.size()];
    const MlaParams p{.heads = s_.heads,
                      .nope_dim = s_.nope,
                      .rope_dim = s_.rope,
                      .value_dim = s_.value,
                      .softmax_scale = 1 / std::sqrt(static_cast<float>(s_.nope + s_.rope)),
                      .kv_b = *NextWeights(),
                      .q = x_.data(),
                      .tokens = t_,
                      .position = c_.position,
                      .cache = cache,
                      .y = y_.data()};
    switch (form_) {
      case Attention::kPlain:
        return set.mla_prefill(p, context);
      case Attention::kAbsorbed:
        return set.mla_decode(p, context);
      case Attention::kSparse:
        return set.mla_sparse({.mla = p, .ids = ids_.data(), .selected = s_.selected}, context);
    }
    return absl::OkStatus();
  }

 private:
  Caches caches_;
  Attention form_;
  std::vector<int32_t> ids_;
};

class IndexAppendOp : public OpBase {
 public:
  explicit IndexAppendOp(const OpCase& c)
      : OpBase(c, {}),
        keys_(c, t_),
        norm_(Normal(s_.cols, 1, 2)),
        bias_(Normal(s_.cols, 1, 3)),
        cos_sin_(Rotations(t_, s_.rope)) {
    x_ = Normal(t_ * s_.cols, 1, 1);
    cost_.bytes = Product({t_, s_.cols}) * kFloatBytes + static_cast<uint64_t>(t_) * keys_.cache.row_bytes();
  }
  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    return set.index_append({.a = x_.data(),
                             .norm = norm_.data(),
                             .bias = bias_.data(),
                             .eps = 1e-6,
                             .cos_sin = cos_sin_.data(),
                             .rope_dim = s_.rope,
                             .pairs = RotaryPairs::kHalves,
                             .tokens = t_,
                             .position = 0,
                             .cache = keys_.cache},
                            context);
  }
  std::vector<float> values() const override {
    std::vector<float> scratch(static_cast<size_t>(t_ * s_.cols));
    const float* const rows = IndexKeys(keys_.cache, 0, t_, scratch.data());
    return {rows, rows + t_ * s_.cols};
  }

 private:
  Keys keys_;
  std::vector<float> norm_, bias_, cos_sin_;
};

class IndexSelectOp : public OpBase {
 public:
  explicit IndexSelectOp(const OpCase& c)
      : OpBase(c, {}), keys_(c, c.position + t_), w_of_heads_(Normal(t_ * s_.heads, 1, 3)) {
    const int64_t rows = c.position + t_;
    const std::vector<float> values = Normal(rows * s_.cols, 1, 2);
    for (int64_t j = 0; j < rows; ++j) StoreIndexKey(keys_.cache, j, values.data() + j * s_.cols);
    x_ = Normal(t_ * s_.heads * s_.cols, 1, 1);
    ids_.resize(static_cast<size_t>(t_ * s_.selected));
    cost_ = {.bytes = static_cast<uint64_t>(rows) * keys_.cache.row_bytes(),
             .products = Product({2, t_, s_.heads, rows, s_.cols})};
  }
  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    bool finite = false;
    return set.index_select({.heads = s_.heads,
                             .q = x_.data(),
                             .w = w_of_heads_.data(),
                             .scale = 0.01f,
                             .top_k = s_.selected,
                             .tokens = t_,
                             .position = c_.position,
                             .cache = keys_.cache,
                             .ids = ids_.data(),
                             .finite = &finite},
                            context);
  }
  std::vector<int32_t> ids() const override { return ids_; }

 private:
  Keys keys_;
  std::vector<float> w_of_heads_;
  std::vector<int32_t> ids_;
};

class RouteOp : public OpBase {
 public:
  RouteOp(const OpCase& c, Weights w) : OpBase(c, std::move(w)), bias_(Normal(s_.experts, 0.01f, 2)) {
    rule_.n_experts = s_.experts;
    rule_.experts_per_token = s_.chosen;
    // V3's rule for its 256 experts, V2-Lite's for the others.
    if (s_.experts >= 256) {
      rule_.sigmoid = rule_.normalize = true;
      rule_.group_score = GroupScore::kSumOfTwoBest;
      rule_.n_group = 8;
      rule_.topk_group = 4;
      rule_.factor = 2.5f;
    }
    x_ = Normal(t_ * s_.cols, 1, 1);
    y_.resize(static_cast<size_t>(t_ * s_.chosen));
    ids_.resize(y_.size());
    cost_ = {.bytes = w_.bytes, .products = Product({2, t_, s_.rows, s_.cols})};
  }
  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    return set.route({.rule = rule_,
                      .w = *NextWeights(),
                      .bias = rule_.sigmoid ? bias_.data() : nullptr,
                      .x = x_.data(),
                      .tokens = t_,
                      .ids = ids_.data(),
                      .weights = y_.data()},
                     context);
  }
  std::vector<int32_t> ids() const override { return ids_; }

 private:
  RouterRule rule_;
  std::vector<float> bias_;
  std::vector<int32_t> ids_;
};

// Gate, up and down of one FFN.
void AppendFfnShapes(const OpShape& s, std::vector<MatrixShape>* shapes) {
  shapes->push_back({s.rows, s.cols});
  shapes->push_back({s.rows, s.cols});
  shapes->push_back({s.cols, s.rows});
}
FfnWeights FfnOf(const MatrixView* w) { return {.gate = w[0], .up = w[1], .down = w[2]}; }

class FfnOp : public OpBase {
 public:
  FfnOp(const OpCase& c, Weights w) : OpBase(c, std::move(w)) {
    x_ = Normal(t_ * s_.cols, 1, 1);
    y_.resize(x_.size());
    cost_ = {.bytes = w_.bytes, .products = Product({6, t_, s_.rows, s_.cols})};
  }
  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    return set.ffn(
        {.w = FfnOf(NextWeights()), .x = x_.data(), .tokens = t_, .y = y_.data(), .act = c_.act, .down_act = c_.act},
        context);
  }
};

class ExpertFfnOp : public OpBase {
 public:
  ExpertFfnOp(const OpCase& c, Weights w) : OpBase(c, std::move(w)) {
    for (const MatrixView* at = w_.views.data(); at != w_.views.data() + w_.views.size(); at += 3) {
      experts_.push_back(FfnOf(at));
    }
    x_ = Normal(t_ * s_.cols, 1, 1);
    y_.resize(x_.size());
    weights_.assign(static_cast<size_t>(t_ * s_.chosen), 1 / static_cast<float>(s_.chosen));
    for (uint64_t round = 0; round < kRounds; ++round) DrawRouting(round);
  }

  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    const uint64_t round = run_ % kRounds;
    const uint64_t copy = run_++ % w_.copies();
    cost_ = {.bytes = w_.bytes / static_cast<uint64_t>(s_.experts) * touched_[round],
             .products = Product({6, t_, s_.chosen, s_.rows, s_.cols})};
    return set.expert_ffn({.experts = experts_.data() + copy * static_cast<uint64_t>(s_.experts),
                           .n_experts = s_.experts,
                           .ids = ids_.data() + round * weights_.size(),
                           .weights = weights_.data(),
                           .k = s_.chosen,
                           .x = x_.data(),
                           .tokens = t_,
                           .y = y_.data(),
                           .act = c_.act,
                           .down_act = c_.act},
                          context);
  }

 private:
  // Prime, so that every copy meets every round.
  static constexpr uint64_t kRounds = 31;

  // Every token's experts: `chosen` distinct ones, all equally likely.
  void DrawRouting(uint64_t round) {
    std::vector<float> keys(static_cast<size_t>(s_.experts));
    std::vector<int32_t> order(keys.size());
    std::vector<bool> seen(keys.size());
    for (int64_t t = 0; t < t_; ++t) {
      FillNormal(round * 1000003 + static_cast<uint64_t>(t), 1, absl::MakeSpan(keys));
      for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return keys[static_cast<size_t>(a)] < keys[static_cast<size_t>(b)];
      });
      std::sort(order.begin(), order.begin() + s_.chosen);
      for (int64_t i = 0; i < s_.chosen; ++i) {
        ids_.push_back(order[static_cast<size_t>(i)]);
        seen[static_cast<size_t>(ids_.back())] = true;
      }
    }
    touched_.push_back(static_cast<uint64_t>(std::count(seen.begin(), seen.end(), true)));
  }

  std::vector<FfnWeights> experts_;  // [copies][experts]
  std::vector<int32_t> ids_;         // [kRounds][T, chosen]
  std::vector<float> weights_;
  std::vector<uint64_t> touched_;  // [kRounds] distinct experts
};

class AddOp : public OpBase {
 public:
  explicit AddOp(const OpCase& c) : OpBase(c, {}) {
    x_ = Normal(t_ * s_.cols, 1, 1);
    cost_.bytes = 3 * x_.size() * kFloatBytes;
    AddOp::Reset();
  }
  void Reset() override { y_ = Normal(t_ * s_.cols, 1, 2); }
  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    return set.add({.x = x_.data(), .y = y_.data(), .n = t_ * s_.cols}, context);
  }
};

class FiniteOp : public OpBase {
 public:
  explicit FiniteOp(const OpCase& c) : OpBase(c, {}) {
    x_ = Normal(t_ * s_.cols, 1, 1);
    cost_.bytes = x_.size() * kFloatBytes;
  }
  absl::Status Run(const KernelSet& set, KernelContext& context) override {
    bool finite = false;
    const absl::Status status = set.all_finite({.x = x_.data(), .n = t_ * s_.cols, .finite = &finite}, context);
    y_ = {finite ? 1.0f : 0.0f};
    return status;
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<PreparedOp>> PreparedOp::Create(const OpCase& c, uint64_t spread, OpArena& arena,
                                                               KernelContext& context) {
  const OpShape& s = c.shape;
  std::vector<MatrixShape> shapes;
  switch (c.op) {
    case OpId::kEmbed:
    case OpId::kLinear:
    case OpId::kRoute:
      shapes.push_back({s.rows, s.cols});
      break;
    case OpId::kMlaPrefill:
    case OpId::kMlaDecode:
    case OpId::kMlaSparse:
      shapes.push_back({s.heads * (s.nope + s.value), s.rank});
      break;
    case OpId::kFfn:
      AppendFfnShapes(s, &shapes);
      break;
    case OpId::kExpertFfn:
      for (int64_t e = 0; e < s.experts; ++e) AppendFfnShapes(s, &shapes);
      break;
    case OpId::kRmsNorm:
    case OpId::kRope:
    case OpId::kLatentAppend:
    case OpId::kIndexAppend:
    case OpId::kIndexSelect:
    case OpId::kAdd:
    case OpId::kAllFinite:
      break;
  }
  Weights w;
  if (!shapes.empty()) {
    KOMPAKT_ASSIGN_OR_RETURN(w, MakeWeights(c.format, shapes, spread, arena, context));
  }
  Caches caches;
  if (s.rank > 0) {
    KOMPAKT_ASSIGN_OR_RETURN(caches, MakeCaches(c, spread, arena));
  }
  std::unique_ptr<PreparedOp> op;
  switch (c.op) {
    case OpId::kEmbed:
      op = std::make_unique<EmbedOp>(c, std::move(w));
      break;
    case OpId::kRmsNorm:
      op = std::make_unique<NormOp>(c);
      break;
    case OpId::kLinear:
      op = std::make_unique<LinearOp>(c, std::move(w));
      break;
    case OpId::kRope:
      op = std::make_unique<RopeOp>(c);
      break;
    case OpId::kLatentAppend:
      op = std::make_unique<LatentAppendOp>(c, caches[0]);
      break;
    case OpId::kMlaPrefill:
      op = std::make_unique<MlaOp>(c, std::move(w), std::move(caches), Attention::kPlain);
      break;
    case OpId::kMlaDecode:
      op = std::make_unique<MlaOp>(c, std::move(w), std::move(caches), Attention::kAbsorbed);
      break;
    case OpId::kMlaSparse:
      op = std::make_unique<MlaOp>(c, std::move(w), std::move(caches), Attention::kSparse);
      break;
    case OpId::kIndexAppend:
      op = std::make_unique<IndexAppendOp>(c);
      break;
    case OpId::kIndexSelect:
      op = std::make_unique<IndexSelectOp>(c);
      break;
    case OpId::kRoute:
      op = std::make_unique<RouteOp>(c, std::move(w));
      break;
    case OpId::kFfn:
      op = std::make_unique<FfnOp>(c, std::move(w));
      break;
    case OpId::kExpertFfn:
      op = std::make_unique<ExpertFfnOp>(c, std::move(w));
      break;
    case OpId::kAdd:
      op = std::make_unique<AddOp>(c);
      break;
    case OpId::kAllFinite:
      op = std::make_unique<FiniteOp>(c);
      break;
  }
  return op;
}

}  // namespace kompakt
