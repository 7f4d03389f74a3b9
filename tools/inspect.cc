// kompakt inspect FILE [--tensor NAME | --ram SIZE [-c N] [-t N]]
#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "format/arch_spec.h"
#include "format/checksum.h"
#include "format/near_names.h"
#include "format/packed_reader.h"
#include "format/status.h"
#include "format/volume_plan.h"
#include "nlohmann/json.hpp"
#include "tools/json_text.h"
#include "tools/paging_report.h"
#include "tools/runtime_flags.h"
#include "tools/terminal.h"
#include "tools/verbs.h"

namespace kompakt {
namespace {

struct ErrorSum {
  double squared_error = 0;
  double squared_weight = 0;
  double max_abs = 0;
  bool any = false;

  void Add(const ErrorStats& stats) {
    squared_error += stats.sum_squared_error();
    squared_weight += stats.sum_squared_weight();
    max_abs = std::max(max_abs, static_cast<double>(stats.max_abs_error()));
    any = true;
  }
  // 10 log10 of error energy over weight energy; an exact result has no finite value.
  std::optional<double> nmse_db() const {
    if (!any || !(squared_error > 0) || !(squared_weight > 0)) return std::nullopt;
    return 10 * std::log10(squared_error / squared_weight);
  }
};

// What the file holds of one role in one format.
struct RoleSummary {
  std::string role, format, source;
  bool exact = false;
  int64_t tensors = 0;
  int64_t parameters = 0;
  uint64_t bytes = 0;
  ErrorSum error;
};

// What the report calls a role: an MTP layer's apart from the main model's.
std::string Label(const ArchSpec& arch, const ExtentEntry& extent, const PartEntry& part) {
  return absl::StrCat(IsMtpLayer(arch, extent.layer()) ? kMtpPrefix : "", part.role());
}

std::vector<RoleSummary> Summarise(const Manifest& manifest) {
  std::vector<RoleSummary> rows;
  for (const ExtentEntry& extent : manifest.extents()) {
    const int64_t records = extent.record_xxh3_size();
    for (const PartEntry& part : extent.parts()) {
      const std::string role = Label(manifest.arch(), extent, part);
      auto row = std::find_if(rows.begin(), rows.end(), [&](const RoleSummary& r) {
        return r.role == role && r.format == part.format() && r.source == part.source_dtype();
      });
      if (row == rows.end()) {
        rows.push_back({role, part.format(), part.source_dtype(), part.exact(), 0, 0, 0, {}});
        row = rows.end() - 1;
      }
      row->tensors += records;
      row->parameters += records * part.rows() * part.cols();
      row->bytes += static_cast<uint64_t>(records) * part.bytes();
      for (const ErrorStats& stats : part.stats()) row->error.Add(stats);
    }
  }
  return rows;
}

// Values in 21 equal bins over [-limit, limit].
struct Histogram {
  static constexpr int kBins = 21;
  double limit = 0;
  int64_t counts[kBins] = {};
};

Histogram HistogramOf(const std::vector<float>& values) {
  Histogram h;
  for (const float v : values) h.limit = std::max(h.limit, std::abs(static_cast<double>(v)));
  for (const float v : values) {
    const double unit = h.limit > 0 ? (static_cast<double>(v) / h.limit + 1) / 2 : 0.5;
    h.counts[std::clamp(static_cast<int>(unit * Histogram::kBins), 0, Histogram::kBins - 1)]++;
  }
  return h;
}

class InspectVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("model,-m,--model", path_, "The .kpk file")->required();
    CLI::Option* tensor = app.add_option("--tensor", tensor_, "Show this tensor: shape, format, error, histogram");
    app.add_option("--ram", runtime_.ram, "Show what run would do within this much memory, for example 6GiB")
        ->excludes(tensor);
    app.add_option("-c,--ctx-size", context_, "Tokens of prompt and answer together, with --ram")
        ->capture_default_str();
    DeclareRuntimeFlags(app, runtime_);
    DeclareCacheFlag(app, runtime_.kv, "bf16");
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(file_, PackedReader::Open(path_));
    KOMPAKT_ASSIGN_OR_RETURN(const uint64_t ram_bytes, RamLimitOf(runtime_));
    if (ram_bytes > 0) return Memory(ram_bytes);
    return tensor_.has_value() ? OneTensor() : WholeFile();
  }

 private:
  absl::StatusOr<ExitCode> Memory(uint64_t ram_bytes) {
    KOMPAKT_ASSIGN_OR_RETURN(const ModelOptions options, ResolveRuntimeFlags(runtime_));
    if (context_ <= 0) return UsageError("-c: expected a positive number, found ", context_);
    KOMPAKT_ASSIGN_OR_RETURN(const PagingReport report,
                             MakePagingReport(*file_, ram_bytes, context_, options.threads, options.cache_format));
    PrintAnswer(json_ ? JsonText(PagingJson(report, path_)) : PagingText(report, path_));
    return kExitYes;
  }

  absl::StatusOr<ExitCode> WholeFile() {
    const Manifest& manifest = file_->manifest();
    const std::vector<RoleSummary> rows = Summarise(manifest);
    PrintAnswer(json_ ? JsonText(FileJson(manifest, rows)) : FileText(manifest, rows));
    return kExitYes;
  }

  // ", with 1 MTP layer 684,489,845,504"; empty without.
  std::string MtpText() const {
    const int64_t layers = file_->schema().arch().mtp_layers();
    if (layers == 0) return "";
    return absl::StrCat(", with ", layers, layers == 1 ? " MTP layer " : " MTP layers ",
                        GroupedDigits(file_->schema().parameter_count()));
  }

  std::string FileText(const Manifest& manifest, const std::vector<RoleSummary>& rows) const {
    const ArchSpec& arch = manifest.arch();
    std::string text = absl::StrFormat(
        "%s  %s bytes\nmodel  %s (%s), %s parameters%s, %d layers, hidden %d, %d experts top-%d, vocabulary %d\n",
        path_, GroupedDigits(static_cast<int64_t>(file_->file_bytes())), arch.architecture(), arch.model_type(),
        GroupedDigits(file_->schema().main_parameter_count()), MtpText(), arch.num_hidden_layers(), arch.hidden_size(),
        arch.moe().n_routed_experts(), arch.moe().num_experts_per_tok(), arch.vocab_size());
    size_t width = 4, source_width = 6;
    for (const RoleSummary& r : rows) {
      width = std::max(width, r.role.size());
      source_width = std::max(source_width, r.source.size());
    }
    absl::StrAppend(&text, absl::StrFormat("\n%-*s  %7s  %11s  %-9s  %13s  %6s  %-*s  %s\n", width, "role", "tensors",
                                           "parameters", "format", "bytes", "bits", source_width, "source", "NMSE dB"));
    for (const RoleSummary& r : rows) {
      const std::optional<double> nmse = r.error.nmse_db();
      absl::StrAppend(
          &text, absl::StrFormat("%-*s  %7d  %11s  %-9s  %13s  %6.3f  %-*s  %s\n", width, r.role, r.tensors,
                                 HumanCount(r.parameters), r.format, GroupedDigits(static_cast<int64_t>(r.bytes)),
                                 8.0 * static_cast<double>(r.bytes) / static_cast<double>(r.parameters), source_width,
                                 r.source,
                                 r.exact ? "exact"
                                 : nmse  ? absl::StrFormat("%.2f", *nmse)
                                         : "-"));
    }
    const auto& files = file_->file().files;
    if (files.size() > 1) {
      absl::StrAppend(&text, "\n", files.size(), " volumes, set id ",
                      absl::Hex(manifest.volumes().set_id(), absl::kZeroPad16), "\n");
      for (size_t v = 0; v < files.size(); ++v) {
        absl::StrAppend(&text, absl::StrFormat("  %15s  %s  %s\n", GroupedDigits(static_cast<int64_t>(files[v].bytes)),
                                               files[v].path, VolumeContent(v)));
      }
    }
    absl::StrAppend(&text, "\nrecipe\n", manifest.recipe());
    absl::StrAppend(&text, "\nmade by kompakt ", manifest.provenance().tool_version(), " from\n");
    for (const SourceFile& f : manifest.provenance().source_files()) {
      absl::StrAppend(&text, absl::StrFormat("  %016x  %15s  %s\n", f.xxh3(),
                                             GroupedDigits(static_cast<int64_t>(f.bytes())), f.name()));
    }
    const uint64_t calibration = manifest.provenance().calibration_xxh3();
    absl::StrAppend(&text, calibration == 0
                               ? "data-free: no calibration\n"
                               : absl::StrCat("calibrated, with calibration data of XXH3 ", HexOf(calibration), "\n"));
    for (const std::string& notice : manifest.provenance().notices()) absl::StrAppend(&text, "note: ", notice, "\n");
    return text;
  }

  std::string VolumeContent(size_t volume) const {
    return ContentOfVolume(file_->layout(), SpanOfVolume(file_->manifest().volumes(), static_cast<int>(volume) + 1));
  }

  nlohmann::ordered_json FileJson(const Manifest& manifest, const std::vector<RoleSummary>& rows) const {
    const ArchSpec& arch = manifest.arch();
    nlohmann::ordered_json roles = nlohmann::ordered_json::array();
    for (const RoleSummary& r : rows) {
      nlohmann::ordered_json row = {{"role", r.role},   {"format", r.format},   {"source_dtype", r.source},
                                    {"exact", r.exact}, {"tensors", r.tensors}, {"parameters", r.parameters},
                                    {"bytes", r.bytes}};
      if (const auto nmse = r.error.nmse_db()) row["nmse_db"] = *nmse;
      if (r.error.any) row["max_abs_error"] = r.error.max_abs;
      roles.push_back(std::move(row));
    }
    nlohmann::ordered_json sources = nlohmann::ordered_json::array();
    for (const SourceFile& f : manifest.provenance().source_files()) {
      sources.push_back({{"name", f.name()}, {"bytes", f.bytes()}, {"xxh3", absl::StrFormat("%016x", f.xxh3())}});
    }
    nlohmann::ordered_json assets = nlohmann::ordered_json::array();
    for (const AssetFile& f : manifest.assets().files())
      assets.push_back({{"name", f.name()}, {"bytes", f.content().size()}});
    nlohmann::ordered_json volumes = nlohmann::ordered_json::array();
    const auto& files = file_->file().files;
    for (size_t v = 0; files.size() > 1 && v < files.size(); ++v) {
      volumes.push_back({{"file", files[v].path}, {"bytes", files[v].bytes}, {"content", VolumeContent(v)}});
    }
    return {{"file", path_},
            {"file_bytes", file_->file_bytes()},
            {"volumes", std::move(volumes)},
            {"architecture", arch.architecture()},
            {"model_type", arch.model_type()},
            {"parameters", file_->schema().main_parameter_count()},
            {"parameters_with_mtp", file_->schema().parameter_count()},
            {"mtp_layers", arch.mtp_layers()},
            {"num_hidden_layers", arch.num_hidden_layers()},
            {"tensor_bytes", file_->layout().tensor_bytes()},
            {"roles", std::move(roles)},
            {"recipe", manifest.recipe()},
            {"tool_version", manifest.provenance().tool_version()},
            {"source_files", std::move(sources)},
            {"calibrated", manifest.provenance().calibration_xxh3() != 0},
            {"calibration_xxh3", HexOf(manifest.provenance().calibration_xxh3())},
            {"assets", std::move(assets)},
            {"stop_ids", manifest.assets().stop_ids()},
            {"notices", manifest.provenance().notices()}};
  }

  absl::StatusOr<TensorInfo> FindTensor() const {
    std::vector<std::string> names;
    for (const TensorInfo& t : file_->schema().tensors()) {
      const std::string name = t.Name();
      if (name == *tensor_ || name == *tensor_ + ".weight") return t;
      names.push_back(name);
    }
    const std::vector<absl::string_view> views(names.begin(), names.end());
    const std::string hint = DidYouMean(*tensor_, views);
    return UsageError("no tensor \"", *tensor_, "\" in ", path_,
                      hint.size() < 200 ? hint : "; names are as upstream, for example " + names[names.size() / 2]);
  }

  absl::StatusOr<std::vector<float>> Values(const TensorInfo& t) const {
    if (t.is_vector()) return file_->Vector(t);
    KOMPAKT_ASSIGN_OR_RETURN(const MatrixView matrix, file_->Matrix(t));
    std::vector<float> values(static_cast<size_t>(t.elements()));
    DecodeRows(matrix, 0, t.rows, absl::MakeSpan(values));
    return values;
  }

  absl::StatusOr<ExitCode> OneTensor() {
    KOMPAKT_ASSIGN_OR_RETURN(const TensorInfo t, FindTensor());
    const PackedLayout::Place place = file_->layout().Find(t.role, t.layer);
    const int64_t record = t.expert < 0 ? 0 : t.expert;
    const Extent& extent = file_->layout().extents()[static_cast<size_t>(place.extent)];
    const ExtentPart& part = extent.parts[static_cast<size_t>(place.part)];
    const PartEntry& entry =
        file_->manifest().extents(static_cast<int>(place.extent)).parts(static_cast<int>(place.part));
    ErrorSum error;
    if (record < entry.stats_size()) error.Add(entry.stats(static_cast<int>(record)));
    KOMPAKT_RETURN_IF_ERROR(file_->VerifyRecord(place.extent, record));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<float> values, Values(t));
    double sum = 0, squares = 0;
    for (const float v : values) {
      sum += static_cast<double>(v);
      squares += static_cast<double>(v) * static_cast<double>(v);
    }
    const auto n = static_cast<double>(values.size());
    const double mean = sum / n;
    const double deviation = std::sqrt(std::max(0.0, squares / n - mean * mean));
    const Histogram histogram = HistogramOf(values);
    const FilePlace place_in_file =
        PlaceOf(file_->file().index, file_->path(), extent.record_offset(record) + part.offset_in_record);
    if (json_) {
      nlohmann::ordered_json json = {{"tensor", t.Name()},
                                     {"role", entry.role()},
                                     {"rows", t.rows},
                                     {"cols", t.cols},
                                     {"format", entry.format()},
                                     {"bytes", entry.bytes()},
                                     {"file", place_in_file.path},
                                     {"offset", place_in_file.offset},
                                     {"exact", entry.exact()},
                                     {"source_dtype", entry.source_dtype()},
                                     {"mean", mean},
                                     {"standard_deviation", deviation},
                                     {"max_abs", histogram.limit},
                                     {"histogram", histogram.counts}};
      if (const auto nmse = error.nmse_db()) json["nmse_db"] = *nmse;
      if (error.any) json["max_abs_error"] = error.max_abs;
      PrintAnswer(JsonText(json));
      return kExitYes;
    }
    std::string text = absl::StrFormat(
        "%s\n  shape      [%d, %d]\n  format     %s, %s bytes at offset %s of %s, checksum right\n  source     %s\n",
        t.Name(), t.rows, t.cols, entry.format(), GroupedDigits(static_cast<int64_t>(entry.bytes())),
        GroupedDigits(static_cast<int64_t>(place_in_file.offset)), place_in_file.path, entry.source_dtype());
    if (entry.exact()) {
      absl::StrAppend(&text, "  error      none: the source's codes bit for bit\n");
    } else if (error.any) {
      const std::optional<double> nmse = error.nmse_db();
      absl::StrAppend(&text, "  error      NMSE ", nmse ? absl::StrFormat("%.2f dB", *nmse) : "0",
                      absl::StrFormat(", largest %.4g\n", error.max_abs));
    }
    absl::StrAppend(&text,
                    absl::StrFormat("  values     mean %.4g, standard deviation %.4g, largest magnitude %.4g\n\n", mean,
                                    deviation, histogram.limit));
    const int64_t most = *std::max_element(std::begin(histogram.counts), std::end(histogram.counts));
    for (int bin = 0; bin < Histogram::kBins; ++bin) {
      const double centre = histogram.limit * (2.0 * (bin + 0.5) / Histogram::kBins - 1);
      const auto bar =
          static_cast<size_t>(60.0 * static_cast<double>(histogram.counts[bin]) / static_cast<double>(most));
      absl::StrAppend(&text, absl::StrFormat("  %11.4g %s %s\n", centre, std::string(bar, '#'),
                                             GroupedDigits(histogram.counts[bin])));
    }
    PrintAnswer(text);
    return kExitYes;
  }

  std::string path_;
  std::optional<std::string> tensor_;
  RuntimeFlags runtime_;
  int64_t context_ = 4096;
  std::shared_ptr<const PackedReader> file_;
};

}  // namespace

std::unique_ptr<Verb> MakeInspectVerb() { return std::make_unique<InspectVerb>(); }

}  // namespace kompakt
