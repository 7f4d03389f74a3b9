#include "runtime/pass_cost.h"

#include <algorithm>
#include <cmath>

namespace kompakt {
namespace {

double Bytes(const MatrixView& m) { return static_cast<double>(m.layout.total_bytes); }
double Products(const MatrixView& m) {
  return 2.0 * static_cast<double>(m.shape.rows) * static_cast<double>(m.shape.cols);
}

// Adds a matrix that every token multiplies; one that the model lacks has no format.
void Add(const MatrixView& m, double tokens, PassCost* cost) {
  if (m.format == nullptr) return;
  cost->weight_bytes += Bytes(m);
  cost->products += tokens * Products(m);
}

void Add(const FfnWeights& w, double tokens, PassCost* cost) {
  for (const MatrixView* const m : {&w.gate, &w.up, &w.down}) Add(*m, tokens, cost);
}

// Pairs of a token and a cache row that it attends to.
double SeenRows(const ArchSpec& arch, int64_t position, int64_t tokens) {
  double seen = 0;
  const bool indexed = arch.attention() == ATTENTION_MLA_INDEXED;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t rows = position + t + 1;
    seen += static_cast<double>(indexed ? std::min(rows, arch.indexer().index_topk()) : rows);
  }
  return seen;
}

void AddLayer(const ModelBinding& model, const LayerBinding& layer, int64_t position, int64_t tokens, PassCost* cost) {
  const MlaSpec& mla = model.arch.mla();
  const auto n = static_cast<double>(tokens);
  const AttentionBinding& a = layer.attention;
  for (const MatrixView* const m : {&a.q_proj, &a.q_a_proj, &a.q_b_proj, &a.kv_a_proj, &a.kv_b_proj, &a.o_proj}) {
    Add(*m, n, cost);
  }
  if (layer.has_indexer) {
    for (const MatrixView* const m : {&layer.indexer.wq_b, &layer.indexer.wk, &layer.indexer.weights}) Add(*m, n, cost);
  }
  cost->products += 2.0 * SeenRows(model.arch, position, tokens) * static_cast<double>(mla.num_attention_heads()) *
                    static_cast<double>(mla.qk_nope_head_dim() + mla.qk_rope_head_dim() + mla.v_head_dim());
  if (!layer.moe) return Add(layer.dense, n, cost);
  Add(layer.router, n, cost);
  if (layer.has_shared) Add(layer.shared, n, cost);
  const auto experts = static_cast<double>(layer.experts.size());
  const auto chosen = static_cast<double>(model.router_rule.experts_per_token);
  PassCost one;
  Add(layer.experts.front(), 1, &one);
  cost->weight_bytes += one.weight_bytes * experts * (1 - std::pow(1 - chosen / experts, n));
  cost->products += one.products * chosen * n;
}

}  // namespace

PassCost CostOfPass(const ModelBinding& model, int64_t position, int64_t tokens) {
  PassCost cost;
  for (const LayerBinding& layer : model.layers) AddLayer(model, layer, position, tokens, &cost);
  Add(model.head, 1, &cost);
  cost.weight_bytes += static_cast<double>(tokens) * Bytes(model.embed) / static_cast<double>(model.embed.shape.rows);
  return cost;
}

}  // namespace kompakt
