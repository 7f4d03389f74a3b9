#include "validate/compare.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "format/status.h"
#include "runtime/session.h"
#include "validate/chunks.h"

namespace kompakt {
namespace {

// Tokens that are traced at once: [62 layers, 64, 7168] F32 is 114 MB for each of two models of V3's shape.
constexpr int64_t kPieceTokens = 64;

absl::Status CheckSame(absl::string_view what, int64_t p, int64_t q) {
  if (p == q) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the two models cannot be compared: ", what, " is ", p,
                                                    " in the original and ", q, " in the other"));
}

absl::Status CheckComparable(const ArchSpec& p, const ArchSpec& q) {
  KOMPAKT_RETURN_IF_ERROR(CheckSame("vocab_size", p.vocab_size(), q.vocab_size()));
  KOMPAKT_RETURN_IF_ERROR(CheckSame("hidden_size", p.hidden_size(), q.hidden_size()));
  KOMPAKT_RETURN_IF_ERROR(CheckSame("num_hidden_layers", p.num_hidden_layers(), q.num_hidden_layers()));
  KOMPAKT_RETURN_IF_ERROR(CheckSame("n_routed_experts", p.moe().n_routed_experts(), q.moe().n_routed_experts()));
  return CheckSame("num_experts_per_tok", p.moe().num_experts_per_tok(), q.moe().num_experts_per_tok());
}

// KL of two non-negative score vectors, each normalised to sum 1. A score of 0 in q where p has some counts as the
// smallest normal number, so that one underflow does not make the mean infinite.
double ScoreDivergence(const float* p, const float* q, int64_t n) {
  double p_sum = 0;
  double q_sum = 0;
  for (int64_t e = 0; e < n; ++e) {
    p_sum += static_cast<double>(p[e]);
    q_sum += static_cast<double>(q[e]);
  }
  double kl = 0;
  for (int64_t e = 0; e < n; ++e) {
    const double pe = static_cast<double>(p[e]) / p_sum;
    if (!(pe > 0)) continue;
    kl += pe * std::log(pe / std::max(static_cast<double>(q[e]) / q_sum, 0x1p-126));
  }
  return std::max(kl, 0.0);
}

class Lockstep {
 public:
  Lockstep(Session& p, Session& q, const CompareOptions& options, Comparison& result)
      : p_(p), q_(q), options_(options), result_(result), arch_(p.model().arch()) {
    const auto layers = static_cast<size_t>(arch_.num_hidden_layers());
    result_.layers.resize(layers);
    sums_.resize(layers);
    for (size_t l = 0; l < layers; ++l) {
      result_.layers[l].moe = p.model().binding().layers[l].moe;
      if (result_.layers[l].moe) {
        const auto experts = static_cast<size_t>(arch_.moe().n_routed_experts());
        result_.layers[l].tokens_per_expert.resize(experts);
        sums_[l].experts.resize(experts);
      }
    }
    result_.kl_by_position.resize(static_cast<size_t>(kPositionBins));
  }

  absl::Status Chunk(absl::Span<const int32_t> chunk, int64_t first_scored) {
    KOMPAKT_RETURN_IF_ERROR(p_.Rewind(0));
    KOMPAKT_RETURN_IF_ERROR(q_.Rewind(0));
    const int64_t tokens = std::ssize(chunk);
    for (int64_t begin = 0; begin < tokens;) {
      // Pieces end where scoring begins, so that a piece is scored as a whole or not at all.
      const int64_t stop = begin < first_scored ? first_scored : tokens;
      const int64_t end = std::min(begin + kPieceTokens, stop);
      KOMPAKT_RETURN_IF_ERROR(Piece(chunk, begin, end, begin >= first_scored, first_scored));
      begin = end;
    }
    return absl::OkStatus();
  }

  void Finish() {
    for (size_t l = 0; l < sums_.size(); ++l) {
      LayerComparison& layer = result_.layers[l];
      const Sums& sums = sums_[l];
      layer.hidden_error = sums.all.Relative();
      for (const Errors& expert : sums.experts) layer.expert_error.push_back(expert.Relative());
      if (!layer.moe || sums.tokens == 0) continue;
      const auto n = static_cast<double>(sums.tokens);
      layer.router_agreement = static_cast<double>(sums.equal_sets) / n;
      layer.router_overlap =
          static_cast<double>(sums.common) / n / static_cast<double>(arch_.moe().num_experts_per_tok());
      layer.router_kl = sums.kl / n;
    }
  }

 private:
  struct Errors {
    double squared_p = 0;
    double squared_difference = 0;

    void Add(const Errors& other) {
      squared_p += other.squared_p;
      squared_difference += other.squared_difference;
    }
    double Relative() const { return squared_p > 0 ? std::sqrt(squared_difference / squared_p) : 0; }
  };
  struct Sums {
    Errors all;
    std::vector<Errors> experts;  // of MoE layers: over the tokens that P sent to each
    int64_t tokens = 0;
    int64_t equal_sets = 0;
    int64_t common = 0;
    double kl = 0;
  };

  absl::Status Piece(absl::Span<const int32_t> chunk, int64_t begin, int64_t end, bool scored, int64_t first_scored) {
    const auto ids = chunk.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    const auto logits = scored ? Session::Logits::kAll : Session::Logits::kNone;
    ForwardTrace p_trace;
    ForwardTrace q_trace;
    KOMPAKT_ASSIGN_OR_RETURN(const Session::Output p_out, p_.Forward(ids, logits, &p_trace));
    KOMPAKT_ASSIGN_OR_RETURN(const Session::Output q_out, q_.Forward(ids, logits, &q_trace));
    AddHidden(p_trace, q_trace, end - begin);
    AddRouting(p_trace, q_trace, end - begin);
    if (!scored) return absl::OkStatus();
    const auto vocab = static_cast<size_t>(arch_.vocab_size());
    const int64_t context = std::ssize(chunk);
    // The last token predicts nothing that is in the chunk.
    for (int64_t t = begin; t < std::min(end, context - 1); ++t) {
      const size_t at = static_cast<size_t>(t - begin) * vocab;
      const auto p_logits = absl::MakeConstSpan(p_out.logits).subspan(at, vocab);
      const int32_t next = chunk[static_cast<size_t>(t + 1)];
      if (options_.original_logits) KOMPAKT_RETURN_IF_ERROR(options_.original_logits(p_logits, next));
      result_.AddToken(t, first_scored, Diverge(p_logits, absl::MakeConstSpan(q_out.logits).subspan(at, vocab), next));
    }
    return absl::OkStatus();
  }

  // trace.hidden[l + 1] is what layer l put out, for all but the last, whose output the final norm has seen.
  void AddHidden(const ForwardTrace& p, const ForwardTrace& q, int64_t tokens) {
    const auto width = static_cast<size_t>(arch_.hidden_size());
    const auto k = static_cast<size_t>(arch_.moe().num_experts_per_tok());
    size_t moe_layer = 0;
    for (size_t l = 0; l < sums_.size(); ++l) {
      for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
        const size_t at = ((l + 1) * static_cast<size_t>(tokens) + t) * width;
        Errors token;
        for (size_t i = at; i < at + width; ++i) {
          const auto x = static_cast<double>(p.hidden[i]);
          const double d = static_cast<double>(q.hidden[i]) - x;
          token.squared_p += x * x;
          token.squared_difference += d * d;
        }
        sums_[l].all.Add(token);
        if (!result_.layers[l].moe) continue;
        const int32_t* const chosen = p.router_ids.data() + (moe_layer * static_cast<size_t>(tokens) + t) * k;
        for (size_t i = 0; i < k; ++i) sums_[l].experts[static_cast<size_t>(chosen[i])].Add(token);
      }
      moe_layer += result_.layers[l].moe ? 1 : 0;
    }
  }

  void AddRouting(const ForwardTrace& p, const ForwardTrace& q, int64_t tokens) {
    const int64_t k = arch_.moe().num_experts_per_tok();
    const int64_t n = arch_.moe().n_routed_experts();
    int64_t moe_layer = 0;
    for (size_t l = 0; l < sums_.size(); ++l) {
      if (!result_.layers[l].moe) continue;
      Sums& sums = sums_[l];
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t row = moe_layer * tokens + t;
        const int32_t* a = p.router_ids.data() + row * k;
        const int32_t* b = q.router_ids.data() + row * k;
        int64_t common = 0;
        for (int64_t i = 0; i < k; ++i) {
          common += std::binary_search(b, b + k, a[i]) ? 1 : 0;
          ++result_.layers[l].tokens_per_expert[static_cast<size_t>(a[i])];
        }
        ++sums.tokens;
        sums.common += common;
        sums.equal_sets += common == k ? 1 : 0;
        sums.kl += ScoreDivergence(p.router_scores.data() + row * n, q.router_scores.data() + row * n, n);
      }
      ++moe_layer;
    }
  }

  Session& p_;
  Session& q_;
  const CompareOptions& options_;
  Comparison& result_;
  const ArchSpec& arch_;
  std::vector<Sums> sums_;  // [layers]
};

}  // namespace

void DivergenceSummary::Add(const TokenDivergence& token) {
  ++tokens_scored;
  kl.Add(token.kl);
  kl_quantiles.Add(token.kl);
  nll_p.Add(token.nll_p);
  nll_q.Add(token.nll_q);
  nll_difference.Add(token.nll_q - token.nll_p);
  squared_delta_p.Add(token.delta_p() * token.delta_p());
  same_top += token.same_top ? 1 : 0;
}

void Comparison::AddToken(int64_t t, int64_t first_scored, const TokenDivergence& token) {
  divergence.Add(token);
  const int64_t bin = (t - first_scored) * kPositionBins / (context - first_scored);
  kl_by_position[static_cast<size_t>(bin)].Add(token.kl);
}

double DivergenceSummary::perplexity_p() const { return std::exp(nll_p.mean()); }
double DivergenceSummary::perplexity_q() const { return std::exp(nll_q.mean()); }
double DivergenceSummary::same_top_share() const {
  return tokens_scored > 0 ? static_cast<double>(same_top) / static_cast<double>(tokens_scored) : 0;
}
double DivergenceSummary::rms_delta_p() const { return std::sqrt(squared_delta_p.mean()); }

absl::StatusOr<Comparison> Compare(std::shared_ptr<const Model> p, std::shared_ptr<const Model> q,
                                   absl::Span<const int32_t> ids, std::optional<int32_t> bos_id,
                                   const CompareOptions& options) {
  KOMPAKT_RETURN_IF_ERROR(CheckComparable(p->arch(), q->arch()));
  KOMPAKT_ASSIGN_OR_RETURN(const ScoredChunks chunks, ScoredChunks::Create(ids, bos_id, options.context));
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Session> p_session, Session::Create(std::move(p), options.context));
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Session> q_session, Session::Create(std::move(q), options.context));
  Comparison result;
  result.context = options.context;
  result.chunks = options.most_chunks > 0 ? std::min(options.most_chunks, chunks.count()) : chunks.count();
  Lockstep lockstep(*p_session, *q_session, options, result);
  for (int64_t i = 0; i < result.chunks; ++i) {
    KOMPAKT_RETURN_IF_ERROR(lockstep.Chunk(chunks.chunk(i), chunks.first_scored()));
    if (options.progress && !options.progress(i + 1, result.chunks)) {
      return absl::CancelledError("the comparison was stopped");
    }
  }
  lockstep.Finish();
  return result;
}

}  // namespace kompakt
