#include "validate/trial.h"

#include <algorithm>
#include <utility>

#include "format/status.h"

namespace kompakt {
namespace {

// Tokens that are run at once.
constexpr int64_t kPieceTokens = 64;

}  // namespace

TrialBench::TrialBench(std::unique_ptr<Session> original, const ScoredChunks& chunks, int64_t most_chunks)
    : original_(std::move(original)), chunks_(chunks), most_chunks_(std::min(most_chunks, chunks.count())) {
  const ArchSpec& arch = original_->model().arch();
  const int64_t tokens = most_chunks_ * chunks_.context();
  const int64_t choices = original_->model().binding().moe_layers * arch.moe().num_experts_per_tok();
  const double bytes =
      static_cast<double>(tokens) * 4 * (2 * static_cast<double>(choices) + static_cast<double>(arch.vocab_size()));
  keep_ = bytes <= static_cast<double>(kKeptBytes);
}

absl::StatusOr<std::unique_ptr<TrialBench>> TrialBench::Create(std::shared_ptr<const Model> original,
                                                               const ScoredChunks& chunks, int64_t most_chunks) {
  KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<Session> session, Session::Create(std::move(original), chunks.context()));
  return std::unique_ptr<TrialBench>(new TrialBench(std::move(session), chunks, most_chunks));
}

int64_t TrialBench::tokens_scored() const { return most_chunks_ * (chunks_.context() - chunks_.first_scored() - 1); }

absl::StatusOr<TrialBench::Piece> TrialBench::RunOriginal(absl::Span<const int32_t> ids, bool scored) {
  Piece piece;
  KOMPAKT_ASSIGN_OR_RETURN(
      Session::Output out,
      original_->Forward(ids, scored ? Session::Logits::kAll : Session::Logits::kNone, &piece.routing));
  piece.logits = std::move(out.logits);
  piece.routing.hidden = {};
  piece.routing.router_scores = {};
  return piece;
}

absl::StatusOr<TrialResult> TrialBench::Run(const std::shared_ptr<const Model>& changed,
                                            const std::function<bool()>& go_on) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Session> free, Session::Create(changed, chunks_.context()));
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Session> frozen, Session::Create(changed, chunks_.context()));
  const auto vocab = static_cast<size_t>(changed->arch().vocab_size());
  TrialResult result;
  // A trial that was stopped has left a part of it.
  if (!complete_) kept_.clear();
  size_t next_piece = 0;
  for (int64_t i = 0; i < most_chunks_; ++i) {
    for (Session* const session : {original_.get(), free.get(), frozen.get()}) {
      KOMPAKT_RETURN_IF_ERROR(session->Rewind(0));
    }
    const absl::Span<const int32_t> chunk = chunks_.chunk(i);
    const int64_t tokens = std::ssize(chunk);
    for (int64_t begin = 0; begin < tokens;) {
      const int64_t stop = begin < chunks_.first_scored() ? chunks_.first_scored() : tokens;
      const int64_t end = std::min(begin + kPieceTokens, stop);
      const bool scored = begin >= chunks_.first_scored();
      const auto ids = chunk.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
      Piece computed;
      if (!complete_) {
        KOMPAKT_ASSIGN_OR_RETURN(computed, RunOriginal(ids, scored));
      }
      if (!complete_ && keep_) {
        kept_.emplace_back();
        std::swap(kept_.back(), computed);
      }
      const Piece& original = keep_ ? kept_[next_piece++] : computed;
      const auto logits = scored ? Session::Logits::kAll : Session::Logits::kNone;
      KOMPAKT_ASSIGN_OR_RETURN(const Session::Output free_out, free->Forward(ids, logits));
      KOMPAKT_ASSIGN_OR_RETURN(const Session::Output frozen_out,
                               frozen->Forward(ids, logits, nullptr, &original.routing));
      for (int64_t t = begin; scored && t < std::min(end, tokens - 1); ++t) {
        const size_t at = static_cast<size_t>(t - begin) * vocab;
        const auto p = absl::MakeConstSpan(original.logits).subspan(at, vocab);
        const int32_t next = chunk[static_cast<size_t>(t + 1)];
        result.kl_free.Add(Diverge(p, absl::MakeConstSpan(free_out.logits).subspan(at, vocab), next).kl);
        result.kl_frozen.Add(Diverge(p, absl::MakeConstSpan(frozen_out.logits).subspan(at, vocab), next).kl);
      }
      if (go_on && !go_on()) return absl::CancelledError("the measurement was stopped");
      begin = end;
    }
  }
  complete_ = keep_;
  return result;
}

}  // namespace kompakt
