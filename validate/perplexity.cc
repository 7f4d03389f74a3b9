#include "validate/perplexity.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "format/status.h"
#include "runtime/session.h"
#include "validate/chunks.h"

namespace kompakt {
namespace {

// Tokens whose logits are held at once: [128, vocab] F32 is 66 MB for a vocabulary of 129,280.
constexpr int64_t kLogitRows = 128;

// -log softmax(logits)[target], in double: thousands of these are summed.
double NegativeLogLikelihood(absl::Span<const float> logits, int32_t target) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - static_cast<double>(largest));
  return std::log(sum) + static_cast<double>(largest) - static_cast<double>(logits[static_cast<size_t>(target)]);
}

// Appends the negative log-likelihood of tokens first + 1 .. context - 1 of one chunk.
absl::Status ScoreChunk(Session& session, absl::Span<const int32_t> chunk, int64_t first, std::vector<double>& nll) {
  const auto context = static_cast<int64_t>(chunk.size());
  const auto vocab = static_cast<size_t>(session.model().arch().vocab_size());
  KOMPAKT_RETURN_IF_ERROR(session.Rewind(0));
  KOMPAKT_ASSIGN_OR_RETURN(const Session::Output prefix,
                           session.Forward(chunk.first(static_cast<size_t>(first)), Session::Logits::kNone));
  // The last token predicts nothing that is scored.
  for (int64_t begin = first; begin < context - 1; begin += kLogitRows) {
    const int64_t end = std::min(begin + kLogitRows, context - 1);
    const absl::Span<const int32_t> ids = chunk.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    KOMPAKT_ASSIGN_OR_RETURN(const Session::Output out, session.Forward(ids, Session::Logits::kAll));
    for (int64_t t = begin; t < end; ++t) {
      const absl::Span<const float> row(out.logits.data() + static_cast<size_t>(t - begin) * vocab, vocab);
      nll.push_back(NegativeLogLikelihood(row, chunk[static_cast<size_t>(t + 1)]));
    }
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t PerplexityLogitBytes(int64_t vocab) { return static_cast<uint64_t>(kLogitRows * vocab) * sizeof(float); }

absl::StatusOr<PerplexityResult> Perplexity(std::shared_ptr<const Model> model, absl::Span<const int32_t> ids,
                                            std::optional<int32_t> bos_id, int64_t context,
                                            const std::function<bool(int64_t chunk, int64_t chunks)>& progress) {
  KOMPAKT_ASSIGN_OR_RETURN(const ScoredChunks chunks, ScoredChunks::Create(ids, bos_id, context));
  PerplexityResult result;
  result.tokens = chunks.tokens();
  result.chunks = chunks.count();
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::Create(std::move(model), context));
  std::vector<double> nll;
  for (int64_t chunk = 0; chunk < result.chunks; ++chunk) {
    KOMPAKT_RETURN_IF_ERROR(ScoreChunk(*session, chunks.chunk(chunk), chunks.first_scored(), nll));
    if (progress && !progress(chunk + 1, result.chunks)) return absl::CancelledError("perplexity was stopped");
  }
  const auto n = static_cast<double>(nll.size());
  double sum = 0;
  for (const double x : nll) sum += x;
  result.mean_nll = sum / n;
  double squares = 0;
  for (const double x : nll) squares += (x - result.mean_nll) * (x - result.mean_nll);
  result.tokens_scored = static_cast<int64_t>(nll.size());
  result.perplexity = std::exp(result.mean_nll);
  // llama-perplexity's estimate: sqrt((mean of squares - square of mean) / (n - 1)), carried through exp.
  result.stderr_perplexity = nll.size() > 1 ? result.perplexity * std::sqrt(squares / n / (n - 1)) : 0;
  return result;
}

}  // namespace kompakt
