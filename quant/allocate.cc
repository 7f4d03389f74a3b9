#include "quant/allocate.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "format/packed_layout.h"
#include "format/status.h"
#include "quant/encoder.h"
#include "runtime/linear_observer.h"

namespace kompakt {
namespace {

// Of the segment that did not fit: the budgets for which the fill is tried.
constexpr uint64_t kFillSteps = 2048;

// What one role in one layer may become.
struct RoleOption {
  bool keep_source = false;
  FormatId format = FormatId::kF32;
  double damage = 0;
  uint64_t blob_bytes = 0;  // of one tensor
};

struct Role {
  FormatChoices choices;
  double weight = 0;
  std::vector<RoleOption> options;
};

// What is chosen at once: one role in one layer, or the three roles of a layer's routed experts.
struct Option {
  uint64_t bytes = 0;
  double damage = 0;
  std::vector<size_t> picks;  // per role of the group, into Role::options
};

struct Group {
  std::vector<size_t> roles;    // into the list of roles
  std::vector<Option> options;  // by ascending bytes and descending damage
  std::vector<size_t> hull;     // of options, first and last included
};

// The cheapest options that nothing beats in both bytes and damage.
std::vector<Option> ParetoFront(std::vector<Option> options) {
  std::stable_sort(options.begin(), options.end(), [](const Option& a, const Option& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.damage < b.damage;
  });
  std::vector<Option> front;
  for (Option& option : options) {
    if (front.empty() || option.damage < front.back().damage) front.push_back(std::move(option));
  }
  return front;
}

double SavedPerByte(const Option& from, const Option& to) {
  return (from.damage - to.damage) / static_cast<double>(to.bytes - from.bytes);
}

std::vector<size_t> HullOf(const std::vector<Option>& options) {
  std::vector<size_t> hull = {0};
  for (size_t i = 1; i < options.size(); ++i) {
    while (hull.size() > 1 && SavedPerByte(options[hull[hull.size() - 2]], options[hull.back()]) <=
                                  SavedPerByte(options[hull.back()], options[i])) {
      hull.pop_back();
    }
    hull.push_back(i);
  }
  return hull;
}

// Places the experts' parts as PackedLayout does.
uint64_t RecordBytes(uint64_t parts_bytes, bool experts) {
  return experts ? (parts_bytes + kPageBytes - 1) / kPageBytes * kPageBytes : parts_bytes;
}

absl::Status AddOption(const TensorInfo& tensor, RoleOption option, Role& role) {
  const BlockFormat& format = FormatOf(option.format);
  absl::StatusOr<BlobLayout> blob =
      tensor.is_vector() ? LayoutOfVector(format, tensor.cols) : LayoutOfMatrix(format, {tensor.rows, tensor.cols});
  if (!blob.ok()) return WithContext(blob.status(), tensor.Name());
  option.blob_bytes = blob->total_bytes;
  role.options.push_back(option);
  return absl::OkStatus();
}

// What the conversion's calibration leaves of the damage of this role.
double ShareOf(const Importance* importance, const ArchSpec& arch, const TensorInfo& tensor) {
  TensorRole input = tensor.role;
  if (importance == nullptr || !LinearInputOf(arch, tensor.role, &input)) return 1;
  const CalibrationFile& file = importance->file();
  if (file.FindMatrix(arch, tensor) >= 0) return kFeedbackShare;
  return file.Find(input, tensor.layer, tensor.expert) >= 0 ? kWeightedShare : 1;
}

// The roles of the model with their options; `fixed` tells what overrides make of each tensor.
absl::StatusOr<std::vector<Role>> RolesOf(const TensorSource& source, const ErrorWeights& weights,
                                          const QuantRecipe& overrides, const Importance* importance) {
  const ModelSchema& schema = source.schema();
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<QuantRecipe::Choice> fixed, overrides.Resolve(source));
  KOMPAKT_ASSIGN_OR_RETURN(std::vector<FormatChoices> all, FormatChoicesOf(source));
  std::vector<Role> roles;
  for (FormatChoices& choices : all) {
    const TensorInfo tensor = choices.first;
    Role role;
    role.weight = weights.Of(tensor.role, tensor.layer) * ShareOf(importance, schema.arch(), tensor);
    const auto noise = [&](FormatId format) { return FormatOf(format).exact ? 0 : role.weight * FormatNoise(format); };
    if (overrides.IsOverridden(schema.arch(), tensor)) {
      const auto index = static_cast<size_t>(schema.Find(tensor.role, tensor.layer, tensor.expert));
      const FormatId format = fixed[index].format;
      KOMPAKT_RETURN_IF_ERROR(AddOption(tensor, {fixed[index].exact, format, noise(format)}, role));
    } else {
      KOMPAKT_RETURN_IF_ERROR(AddOption(tensor, {true, choices.kept, 0}, role));
      for (const FormatId format : choices.lossy) {
        KOMPAKT_RETURN_IF_ERROR(AddOption(tensor, {false, format, noise(format)}, role));
      }
    }
    role.choices = std::move(choices);
    roles.push_back(std::move(role));
  }
  return roles;
}

bool Offers(const Role& role, const RoleOption& wanted) {
  return std::any_of(role.options.begin(), role.options.end(), [&](const RoleOption& option) {
    return option.keep_source == wanted.keep_source && (wanted.keep_source || option.format == wanted.format);
  });
}

// Gate and up get one format, unless an override leaves them none in common.
bool Agree(const std::vector<Role>& roles, const Group& group, const Option& option) {
  if (group.roles.size() < 2) return true;
  const Role& gate = roles[group.roles[0]];
  const Role& up = roles[group.roles[1]];
  const RoleOption& a = gate.options[option.picks[0]];
  const RoleOption& b = up.options[option.picks[1]];
  if (a.keep_source == b.keep_source && (a.keep_source || a.format == b.format)) return true;
  return !Offers(up, a) || !Offers(gate, b);
}

void AddCombinations(const std::vector<Role>& roles, Group& group) {
  const bool experts = roles[group.roles[0]].choices.first.expert >= 0;
  const auto records = static_cast<uint64_t>(roles[group.roles[0]].choices.tensors);
  std::vector<Option> options;
  Option option;
  option.picks.assign(group.roles.size(), 0);
  for (;;) {
    if (Agree(roles, group, option)) {
      uint64_t parts_bytes = 0;
      option.damage = 0;
      for (size_t r = 0; r < group.roles.size(); ++r) {
        const RoleOption& pick = roles[group.roles[r]].options[option.picks[r]];
        parts_bytes += pick.blob_bytes;
        option.damage += pick.damage;
      }
      option.bytes = records * RecordBytes(parts_bytes, experts);
      options.push_back(option);
    }
    size_t r = 0;
    while (r < group.roles.size() && ++option.picks[r] == roles[group.roles[r]].options.size()) option.picks[r++] = 0;
    if (r == group.roles.size()) break;
  }
  group.options = ParetoFront(std::move(options));
  group.hull = HullOf(group.options);
}

std::vector<Group> GroupsOf(const std::vector<Role>& roles) {
  std::vector<Group> groups;
  std::map<int32_t, size_t> experts;  // of a layer
  for (size_t r = 0; r < roles.size(); ++r) {
    const TensorInfo& tensor = roles[r].choices.first;
    if (tensor.expert >= 0) {
      const auto [at, is_new] = experts.try_emplace(tensor.layer, groups.size());
      if (!is_new) {
        groups[at->second].roles.push_back(r);
        continue;
      }
    }
    groups.emplace_back().roles.push_back(r);
  }
  for (Group& group : groups) AddCombinations(roles, group);
  return groups;
}

using Picks = std::vector<size_t>;  // per group, into Group::options

struct Sum {
  uint64_t bytes = 0;
  double damage = 0;
};

Sum SumOf(const std::vector<Group>& groups, const Picks& picks) {
  Sum sum;
  for (size_t g = 0; g < groups.size(); ++g) {
    sum.bytes += groups[g].options[picks[g]].bytes;
    sum.damage += groups[g].options[picks[g]].damage;
  }
  return sum;
}

// Spends up to `bytes` more on whatever saves most damage per byte and fits, until nothing does.
void Fill(const std::vector<Group>& groups, uint64_t bytes, Picks& picks) {
  for (;;) {
    size_t best_group = groups.size();
    size_t best_option = 0;
    double best_saved = 0;
    for (size_t g = 0; g < groups.size(); ++g) {
      const Option& now = groups[g].options[picks[g]];
      for (size_t o = picks[g] + 1; o < groups[g].options.size(); ++o) {
        if (groups[g].options[o].bytes - now.bytes > bytes) break;
        const double saved = SavedPerByte(now, groups[g].options[o]);
        if (!(saved > best_saved)) continue;
        best_saved = saved;
        best_group = g;
        best_option = o;
      }
    }
    if (best_group == groups.size()) return;
    bytes -= groups[best_group].options[best_option].bytes - groups[best_group].options[picks[best_group]].bytes;
    picks[best_group] = best_option;
  }
}

struct Segment {
  size_t group = 0;
  size_t hull = 0;  // from hull[hull] to hull[hull + 1]
  double saved_per_byte = 0;
};

uint64_t BytesOf(const std::vector<Group>& groups, const Segment& segment) {
  const Group& group = groups[segment.group];
  return group.options[group.hull[segment.hull + 1]].bytes - group.options[group.hull[segment.hull]].bytes;
}

// Takes `segment` after all, for which `bytes` are there: gives back what was taken last until it fits, but nothing of
// more than `most_bytes`. False where that is not enough.
bool TakeInstead(const std::vector<Group>& groups, const std::vector<Segment>& taken, const Segment& segment,
                 uint64_t most_bytes, uint64_t& bytes, Picks& picks) {
  const uint64_t needed = BytesOf(groups, segment);
  for (auto last = taken.rbegin(); last != taken.rend() && bytes < needed; ++last) {
    const Group& group = groups[last->group];
    // Only the end of what its group took can be given back.
    if (last->group == segment.group || picks[last->group] != group.hull[last->hull + 1]) continue;
    if (BytesOf(groups, *last) > most_bytes) continue;
    picks[last->group] = group.hull[last->hull];
    bytes += BytesOf(groups, *last);
  }
  if (bytes < needed) return false;
  picks[segment.group] = groups[segment.group].hull[segment.hull + 1];
  bytes -= needed;
  return true;
}

// The best use of the `left` bytes behind `taken`, which are too few for `segment`. Whatever is found here cannot beat
// `taken` with `segment`: that is the optimum of a larger budget.
Picks BestWithin(const std::vector<Group>& groups, const Picks& picks, const std::vector<Segment>& taken,
                 const Segment& segment, uint64_t left) {
  Picks best = picks;
  double least = SumOf(groups, picks).damage;
  const auto consider = [&](Picks candidate) {
    if (const double damage = SumOf(groups, candidate).damage; damage < least) {
      least = damage;
      best = std::move(candidate);
    }
  };
  const uint64_t bytes = BytesOf(groups, segment);
  for (uint64_t step = 0; step < kFillSteps; ++step) {
    // bytes / kFillSteps * step without overflow, rounded down.
    const uint64_t part = bytes / kFillSteps * step + bytes % kFillSteps * step / kFillSteps;
    if (part > left) break;
    Picks filled = picks;
    Fill(groups, part, filled);
    consider(std::move(filled));
    for (const uint64_t most_bytes : {bytes, bytes / 2}) {
      Picks swapped = picks;
      uint64_t rest = part;
      if (!TakeInstead(groups, taken, segment, most_bytes, rest, swapped)) continue;
      Fill(groups, rest, swapped);
      consider(std::move(swapped));
    }
  }
  return best;
}

absl::StatusOr<Picks> Choose(const std::vector<Group>& groups, uint64_t budget_bytes) {
  Picks picks(groups.size(), 0);
  const uint64_t smallest = SumOf(groups, picks).bytes;
  if (smallest > budget_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("expected a budget of at least ", smallest,
                                                     " bytes of tensors, the smallest that the formats allow; found ",
                                                     budget_bytes));
  }
  uint64_t left = budget_bytes - smallest;
  std::vector<Segment> segments;
  for (size_t g = 0; g < groups.size(); ++g) {
    for (size_t h = 0; h + 1 < groups[g].hull.size(); ++h) {
      segments.push_back(
          {g, h, SavedPerByte(groups[g].options[groups[g].hull[h]], groups[g].options[groups[g].hull[h + 1]])});
    }
  }
  // Within a group the hull's segments save less and less per byte, so they stay in their order.
  std::stable_sort(segments.begin(), segments.end(),
                   [](const Segment& a, const Segment& b) { return a.saved_per_byte > b.saved_per_byte; });
  std::vector<Segment> taken;
  for (const Segment& segment : segments) {
    const uint64_t bytes = BytesOf(groups, segment);
    if (bytes > left) return BestWithin(groups, picks, taken, segment, left);
    picks[segment.group] = groups[segment.group].hull[segment.hull + 1];
    left -= bytes;
    taken.push_back(segment);
  }
  return picks;
}

absl::string_view NameOf(const RoleOption& option) {
  return option.keep_source ? absl::string_view("source") : FormatOf(option.format).name;
}

std::string PatternOf(const TensorInfo& tensor) {
  return absl::StrCat("model.layers.", tensor.layer, ".", InfoOf(tensor.role).name);
}

// The recipe as text: for each role the format of most layers, then the layers that differ.
std::string RecipeText(const ArchSpec& arch, const std::vector<Role>& roles, const std::vector<RoleOption>& chosen) {
  std::string text = "* = source  # norms, router and biases: small, and everything depends on them\n";
  std::map<std::string, std::vector<size_t>> by_label;
  std::vector<std::string> labels;  // in the order of the schema
  for (size_t r = 0; r < roles.size(); ++r) {
    const TensorInfo& tensor = roles[r].choices.first;
    if (WeightClassOf(arch, tensor.role, tensor.layer) == nullptr) continue;
    const std::string label = RoleLabel(arch, tensor.role, tensor.layer);
    if (by_label[label].empty()) labels.push_back(label);
    by_label[label].push_back(r);
  }
  std::string exceptions;
  for (const std::string& label : labels) {
    const std::vector<size_t>& layers = by_label[label];
    std::map<absl::string_view, int64_t> counts;
    for (const size_t r : layers) ++counts[NameOf(chosen[r])];
    const absl::string_view usual = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
                                      return a.second < b.second;
                                    })->first;
    const TensorInfo& first = roles[layers.front()].choices.first;
    const bool native = roles[layers.front()].options.size() == 1 && chosen[layers.front()].keep_source;
    absl::StrAppend(&text, label, " = ", usual, "  # ",
                    native ? absl::string_view("low-bit upstream, never quantized twice")
                           : WeightClassOf(arch, first.role, first.layer)->reason,
                    layers.size() > 1 ? absl::StrCat("; ", counts[usual], " of ", layers.size(), " layers") : "", "\n");
    for (const size_t r : layers) {
      if (NameOf(chosen[r]) == usual) continue;
      const TensorInfo& tensor = roles[r].choices.first;
      absl::StrAppend(
          &exceptions, PatternOf(tensor), " = ", NameOf(chosen[r]), "  # ",
          absl::StrFormat("error weight %.2g%s, error %s\n", roles[r].weight,
                          IsOuterLayer(arch, tensor.layer) ? " (outer eighth of the layers)" : "",
                          FormatOf(chosen[r].format).exact
                              ? std::string("none")
                              : absl::StrFormat("%.1f dB", 10 * std::log10(FormatNoise(chosen[r].format)))));
    }
  }
  return text + exceptions;
}

double MeasureNoise(FormatId format) {
  constexpr int64_t kCols = 2048;
  std::mt19937_64 rng(1);
  // Box-Muller: std::normal_distribution differs between standard libraries.
  const auto uniform = [&] { return (static_cast<double>(rng() >> 11) + 0.5) * 0x1p-53; };
  std::vector<float> values(static_cast<size_t>(kTileRows * kCols));
  for (float& v : values) {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    v = static_cast<float>(radius * std::cos(2 * std::numbers::pi * uniform()));
  }
  RowTile in;
  in.values = values.data();
  in.n_rows = kTileRows;
  in.cols = kCols;
  EncoderScratch scratch;
  std::vector<uint8_t> tiles(static_cast<uint64_t>(kCols / kTileCols) * FormatOf(format).tile_bytes);
  std::vector<float> row_scales(static_cast<size_t>(kTileRows));
  TileError error;
  const absl::Status encoded = EncodeRowTile(format, SearchEffort::kDefault, in, scratch, absl::MakeSpan(tiles),
                                             absl::MakeSpan(row_scales), &error);
  if (!encoded.ok() || !(error.sum_squared_weight > 0) || !(error.sum_squared_error > 0)) return 1;
  const double db = 10 * std::log10(error.sum_squared_error / error.sum_squared_weight);
  return std::pow(10, std::round(100 * db) / 1000);
}

}  // namespace

double FormatNoise(FormatId format) {
  static const std::map<FormatId, double> kNoise = [] {
    std::map<FormatId, double> noise;
    for (const BlockFormat& row : AllFormats()) {
      if (!row.exact && FindEncoder(row.id) != nullptr) noise[row.id] = MeasureNoise(row.id);
    }
    return noise;
  }();
  const auto found = kNoise.find(format);
  return found == kNoise.end() ? 0 : found->second;
}

absl::StatusOr<Allocation> Allocate(const TensorSource& source, const AllocationRequest& request) {
  const ArchSpec& arch = source.schema().arch();
  KOMPAKT_ASSIGN_OR_RETURN(QuantRecipe overrides, QuantRecipe::Parse("* = source\n", "allocate"));
  for (const std::string& flag : request.overrides) KOMPAKT_RETURN_IF_ERROR(overrides.AddOverride(flag));
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<Role> roles,
                           RolesOf(source, ErrorWeights(arch, request.measured), overrides, request.importance));
  const std::vector<Group> groups = GroupsOf(roles);
  KOMPAKT_ASSIGN_OR_RETURN(const Picks picks, Choose(groups, request.budget_bytes));

  std::vector<RoleOption> chosen(roles.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    for (size_t r = 0; r < groups[g].roles.size(); ++r) {
      const size_t role = groups[g].roles[r];
      chosen[role] = roles[role].options[groups[g].options[picks[g]].picks[r]];
    }
  }
  Allocation result;
  const Sum sum = SumOf(groups, picks);
  result.tensor_bytes = sum.bytes;
  result.damage = sum.damage;
  KOMPAKT_ASSIGN_OR_RETURN(result.recipe, QuantRecipe::Parse(RecipeText(arch, roles, chosen), "allocate"));
  for (const std::string& flag : request.overrides) KOMPAKT_RETURN_IF_ERROR(result.recipe.AddOverride(flag));

  // The recipe must mean what was counted.
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<QuantRecipe::Choice> choices, result.recipe.Resolve(source));
  std::vector<FormatId> formats;
  formats.reserve(choices.size());
  for (const QuantRecipe::Choice& choice : choices) formats.push_back(choice.format);
  KOMPAKT_ASSIGN_OR_RETURN(const PackedLayout layout, PackedLayout::Create(source.schema(), formats));
  if (layout.tensor_bytes() != result.tensor_bytes) {
    return absl::InternalError(absl::StrCat("allocate: counted ", result.tensor_bytes,
                                            " bytes of tensors, the layout has ", layout.tensor_bytes()));
  }
  return result;
}

}  // namespace kompakt
