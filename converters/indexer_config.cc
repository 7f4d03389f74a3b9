#include <string>
#include <vector>

#include "converters/config.h"
#include "converters/json.h"
#include "format/status.h"

namespace kompakt {
namespace {

// Upstream builds the LayerNorm of the keys with this eps, whatever rms_norm_eps says.
constexpr double kKeyNormEps = 1e-6;

// Which layers take the selection of a layer below: the list indexer_types of GLM-5.2, one word per layer. Its shorter
// spelling, index_topk_freq with an offset, is read differently by different programs and is not taken as a stand-in.
absl::StatusOr<std::vector<bool>> ParseSharing(const JsonFields& config) {
  if (config.Has("indexer_types")) {
    const nlohmann::json& kinds = *config.Find("indexer_types");
    std::vector<bool> shared;
    bool any = false;
    bool ok = kinds.is_array();
    for (size_t i = 0; ok && i < kinds.size(); ++i) {
      ok = kinds[i] == "full" || kinds[i] == "shared";
      shared.push_back(kinds[i] == "shared");
      any = any || shared.back();
    }
    if (!ok || shared.empty()) return config.Unexpected("indexer_types", "a list of \"full\" and \"shared\"");
    KOMPAKT_ASSIGN_OR_RETURN(const int64_t layers, config.Int("num_hidden_layers"));
    if (std::ssize(shared) != layers || shared[0]) {
      return absl::FailedPreconditionError(absl::StrCat(config.where(), ": indexer_types: expected ", layers,
                                                        " entries, the first \"full\", found ", shared.size(),
                                                        " beginning with \"", shared[0] ? "shared" : "full", "\""));
    }
    if (!any) shared.clear();
    return shared;
  }
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t frequency, config.IntOr("index_topk_freq", 1));
  for (const absl::string_view key : {"index_topk_freq", "index_topk_pattern"}) {
    if (!config.Has(key) || (key == "index_topk_freq" && frequency == 1)) continue;
    return UnsupportedError(config.where(), ": ", key, ": layers that share an indexer are read from indexer_types, ",
                            "which is missing; found ", JsonExcerpt(*config.Find(key)));
  }
  return std::vector<bool>();
}

}  // namespace

absl::StatusOr<IndexerSpec> ParseIndexer(const JsonFields& config, bool interleave) {
  IndexerSpec indexer;
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t heads, config.Int("index_n_heads"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t dim, config.Int("index_head_dim"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t top_k, config.Int("index_topk"));
  KOMPAKT_ASSIGN_OR_RETURN(const bool interleaved, config.BoolOr("indexer_rope_interleave", interleave));
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<bool> shared, ParseSharing(config));
  indexer.set_index_n_heads(heads);
  indexer.set_index_head_dim(dim);
  indexer.set_index_topk(top_k);
  indexer.set_rope_interleave(interleaved);
  indexer.set_k_norm_eps(kKeyNormEps);
  for (const bool one : shared) indexer.add_shared(one);
  return indexer;
}

}  // namespace kompakt
