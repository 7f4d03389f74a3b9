#include "tools/sensitivity_file.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "format/near_names.h"
#include "format/status.h"
#include "tools/model_input.h"

namespace kompakt {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kVersion = 1;
// No model has more layers, and no band a larger number.
constexpr int64_t kMostLayers = 100000;

// Reads fields of one object and remembers the first that is not as it should be.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const absl::Status& status() const { return status_; }

  std::string Text(const char* name) {
    const Json* const value = Find(name, "a string", [](const Json& v) { return v.is_string(); });
    return value == nullptr ? "" : value->get<std::string>();
  }
  // Finite and 0 or more.
  double Number(const char* name) {
    const Json* const value = Find(name, "a number of 0 or more", [](const Json& v) {
      return v.is_number() && std::isfinite(v.get<double>()) && v.get<double>() >= 0;
    });
    return value == nullptr ? 0 : value->get<double>();
  }
  int64_t Integer(const char* name, int64_t least, int64_t most) {
    const Json* const value = Find(name, absl::StrCat("an integer from ", least, " to ", most), [&](const Json& v) {
      if (v.is_number_unsigned()) return v.get<uint64_t>() <= static_cast<uint64_t>(most) && most >= 0;
      return v.is_number_integer() && v.get<int64_t>() >= least && v.get<int64_t>() <= most;
    });
    return value == nullptr ? least : value->get<int64_t>();
  }

 private:
  template <typename Check>
  const Json* Find(const char* name, const std::string& expected, const Check& check) {
    const auto found = object_.find(name);
    if (found != object_.end() && check(*found)) return &*found;
    if (status_.ok()) {
      status_ = CorruptError(where_, ": expected ", expected, " as \"", name, "\", found ",
                             found == object_.end() ? "nothing" : found->dump().substr(0, 60));
    }
    return nullptr;
  }

  const Json& object_;
  std::string where_;
  absl::Status status_;
};

absl::StatusOr<SensitivityUnit> ParseUnit(const Json& json, const std::string& where, int64_t layers) {
  if (!json.is_object()) return CorruptError(where, ": expected an object, found ", json.dump().substr(0, 60));
  Fields fields(json, where);
  SensitivityUnit unit;
  unit.weight_class = fields.Text("class");
  unit.first_layer = fields.Integer("first_layer", -1, layers - 1);
  unit.last_layer = fields.Integer("last_layer", unit.first_layer, layers - 1);
  unit.roles = fields.Integer("roles", 1, kMostLayers * 10);
  unit.parameters = fields.Integer("parameters", 1, int64_t{1} << 62);
  unit.relative_error = fields.Number("relative_error");
  unit.kl_free = fields.Number("kl_free");
  unit.kl_free_stderr = fields.Number("kl_free_stderr");
  unit.kl_frozen = fields.Number("kl_frozen");
  unit.kl_frozen_stderr = fields.Number("kl_frozen_stderr");
  KOMPAKT_RETURN_IF_ERROR(fields.status());
  std::vector<absl::string_view> names;
  names.reserve(AllWeightClasses().size());
  for (const WeightClass& c : AllWeightClasses()) names.push_back(c.name);
  if (std::find(names.begin(), names.end(), unit.weight_class) == names.end()) {
    return CorruptError(where, ": unknown class \"", unit.weight_class, "\"", DidYouMean(unit.weight_class, names));
  }
  return unit;
}

}  // namespace

double SensitivityReport::WeightOf(const SensitivityUnit& unit) const {
  if (!(format_error > 0) || unit.roles < 1) return 0;
  return std::max(0.0, unit.kl_free - floor_free) / format_error / static_cast<double>(unit.roles);
}

std::vector<MeasuredWeight> SensitivityReport::Weights() const {
  std::vector<MeasuredWeight> weights;
  for (const SensitivityUnit& unit : units) {
    weights.push_back({unit.weight_class, unit.first_layer, unit.last_layer, WeightOf(unit)});
  }
  return weights;
}

Json SensitivityJson(const SensitivityReport& report) {
  Json units = Json::array();
  for (const SensitivityUnit& unit : report.units) {
    units.push_back({{"class", unit.weight_class},
                     {"first_layer", unit.first_layer},
                     {"last_layer", unit.last_layer},
                     {"roles", unit.roles},
                     {"parameters", unit.parameters},
                     {"relative_error", unit.relative_error},
                     {"kl_free", unit.kl_free},
                     {"kl_free_stderr", unit.kl_free_stderr},
                     {"kl_frozen", unit.kl_frozen},
                     {"kl_frozen_stderr", unit.kl_frozen_stderr},
                     {"weight", report.WeightOf(unit)}});
  }
  return {{"kompakt_sensitivity", kVersion},
          {"model", report.model},
          {"text", report.text},
          {"format", report.format},
          {"format_error", report.format_error},
          {"calibration", report.calibration},
          {"num_hidden_layers", report.num_hidden_layers},
          {"context", report.context},
          {"chunks", report.chunks},
          {"tokens_scored", report.tokens_scored},
          {"floor_free", report.floor_free},
          {"floor_frozen", report.floor_frozen},
          {"units", std::move(units)}};
}

absl::StatusOr<SensitivityReport> ParseSensitivity(const std::string& text, const std::string& path) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return CorruptError(path, ": expected a JSON object of `kompakt sensitivity`");
  Fields fields(json, path);
  SensitivityReport report;
  fields.Integer("kompakt_sensitivity", kVersion, kVersion);
  report.model = fields.Text("model");
  report.text = fields.Text("text");
  report.format = fields.Text("format");
  report.format_error = fields.Number("format_error");
  report.calibration = fields.Text("calibration");
  report.num_hidden_layers = fields.Integer("num_hidden_layers", 1, kMostLayers);
  report.context = fields.Integer("context", 1, int64_t{1} << 40);
  report.chunks = fields.Integer("chunks", 1, int64_t{1} << 40);
  report.tokens_scored = fields.Integer("tokens_scored", 1, int64_t{1} << 60);
  report.floor_free = fields.Number("floor_free");
  report.floor_frozen = fields.Number("floor_frozen");
  KOMPAKT_RETURN_IF_ERROR(fields.status());
  const auto units = json.find("units");
  if (units == json.end() || !units->is_array() || units->empty()) {
    return CorruptError(path, ": expected an array \"units\" with at least one entry");
  }
  for (size_t i = 0; i < units->size(); ++i) {
    KOMPAKT_ASSIGN_OR_RETURN(SensitivityUnit unit,
                             ParseUnit((*units)[i], absl::StrCat(path, ": unit ", i), report.num_hidden_layers));
    report.units.push_back(std::move(unit));
  }
  return report;
}

absl::StatusOr<SensitivityReport> ReadSensitivity(const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  return ParseSensitivity(text, path);
}

absl::Status CheckSameDepth(const SensitivityReport& report, const ArchSpec& arch, const std::string& path) {
  if (report.num_hidden_layers == arch.num_hidden_layers()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(path, ": measured on a model of ", report.num_hidden_layers,
                                                    " layers (", report.model, "); this one has ",
                                                    arch.num_hidden_layers()));
}

}  // namespace kompakt
