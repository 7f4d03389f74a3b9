#include "quant/error_weight.h"

#include <algorithm>
#include <utility>

#include "format/arch_spec.h"

namespace kompakt {
namespace {

constexpr double kLeastOfTable = 1.0 / 50;

using Role = TensorRole;

}  // namespace

absl::Span<const WeightClass> AllWeightClasses() {
  static const std::vector<WeightClass> kClasses = {
      {"head", {Role::kLmHead}, 8, "its error reaches the logits directly"},
      {"embedding", {Role::kEmbedTokens}, 4, "every layer works on it"},
      {"attention.latent", {Role::kKvAProj, Role::kKvBProj}, 4, "keys and values of every head come from it"},
      {"attention.query", {Role::kQProj, Role::kQAProj, Role::kQBProj}, 1, "every token, every layer"},
      {"attention.out", {Role::kOProj}, 2, "writes into the residual stream"},
      {"indexer", {Role::kIndexQB, Role::kIndexK, Role::kIndexWeights}, 4, "decides which tokens attention sees"},
      {"dense.gate_up", {Role::kDenseGate, Role::kDenseUp}, 2, "every token, first layers"},
      {"dense.down", {Role::kDenseDown}, 4, "writes into the residual stream, first layers"},
      {"shared.gate_up", {Role::kSharedGate, Role::kSharedUp}, 1, "every token"},
      {"shared.down", {Role::kSharedDown}, 2, "writes into the residual stream for every token"},
      {"experts.gate_up", {Role::kExpertGate, Role::kExpertUp}, 0.25, "each expert sees few tokens"},
      {"experts.down", {Role::kExpertDown}, 0.5, "writes into the residual stream; each expert sees few tokens"},
      {"mtp", {}, 0.02, "only drafts, but a wrong draft costs a step"},
  };
  return kClasses;
}

const WeightClass* WeightClassOf(const ArchSpec& arch, TensorRole role, int64_t layer) {
  const RoleInfo& info = InfoOf(role);
  if (info.is_vector || role == TensorRole::kRouter) return nullptr;
  const absl::Span<const WeightClass> classes = AllWeightClasses();
  if (layer >= arch.num_hidden_layers() || role == TensorRole::kMtpProj) return &classes.back();
  for (const WeightClass& c : classes) {
    if (std::find(c.roles.begin(), c.roles.end(), role) != c.roles.end()) return &c;
  }
  return nullptr;
}

bool IsOuterLayer(const ArchSpec& arch, int64_t layer) {
  const int64_t layers = arch.num_hidden_layers();
  const int64_t eighth = (layers + 7) / 8;
  return layer >= 0 && layer < layers && (layer < eighth || layer >= layers - eighth);
}

ErrorWeights::ErrorWeights(const ArchSpec& arch, std::vector<MeasuredWeight> measured)
    : arch_(arch), measured_(std::move(measured)) {
  std::vector<double> ratios;
  for (const MeasuredWeight& row : measured_) {
    for (const WeightClass& c : AllWeightClasses()) {
      if (c.name == row.weight_class && row.weight > 0) {
        ratios.push_back(row.weight / FromTable(c, (row.first_layer + row.last_layer) / 2));
      }
    }
  }
  if (ratios.empty()) return;
  std::sort(ratios.begin(), ratios.end());
  unit_ = ratios[ratios.size() / 2];
}

double ErrorWeights::FromTable(const WeightClass& weight_class, int64_t layer) const {
  if (layer < 0) return weight_class.weight;
  const auto layers = static_cast<double>(std::max<int64_t>(1, arch_.num_hidden_layers()));
  return weight_class.weight / layers * (IsOuterLayer(arch_, layer) ? kOuterFactor : 1);
}

double ErrorWeights::Of(TensorRole role, int64_t layer) const {
  const WeightClass* const weight_class = WeightClassOf(arch_, role, layer);
  if (weight_class == nullptr) return 0;
  const double table = unit_ * FromTable(*weight_class, layer);
  for (const MeasuredWeight& row : measured_) {
    if (row.weight_class != weight_class->name || layer < row.first_layer || layer > row.last_layer) continue;
    return std::max(row.weight, kLeastOfTable * table);
  }
  return table;
}

}  // namespace kompakt
