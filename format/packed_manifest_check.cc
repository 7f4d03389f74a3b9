// CheckManifest: the manifest against the schema of its own ArchSpec (format/packed_index.h).
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "format/arch_spec.h"
#include "format/packed_index.h"
#include "format/status.h"

namespace kompakt {
namespace {

std::string ExtentName(const Manifest& manifest, int index) {
  const ExtentEntry& e = manifest.extents(index);
  std::string name = absl::StrCat("extent ", index, " (");
  if (e.layer() >= 0) absl::StrAppend(&name, "layer ", e.layer(), " ");
  absl::StrAppend(&name, e.experts() ? "experts" : e.parts_size() > 0 ? e.parts(0).role() : "empty", ")");
  return name;
}

template <typename Expected, typename Found>
absl::Status ExpectEqual(const std::string& where, absl::string_view field, Expected expected, Found found) {
  if (expected == found) return absl::OkStatus();
  return CorruptError(where, ": ", field, " is ", found, ", expected ", expected);
}

// Inside a packed file a contradiction is damage, whatever it would be elsewhere. Unsupported stays unsupported.
absl::Status AsDamage(const absl::Status& status) {
  if (status.ok() || absl::IsUnimplemented(status)) return status;
  return CorruptError("manifest: ", status.message());
}

// The schema of an ArchSpec can have millions of tensors; a manifest of a few bytes must not make us build it.
absl::Status CheckPlausible(const Manifest& manifest) {
  const ArchSpec& arch = manifest.arch();
  KOMPAKT_RETURN_IF_ERROR(AsDamage(ValidateArchSpec(arch)));
  const int64_t layers = LayerCount(arch);
  if (layers > manifest.extents_size()) {
    return CorruptError("manifest: num_hidden_layers is ", arch.num_hidden_layers(), " with ", arch.mtp_layers(),
                        " MTP layers, but there are only ", manifest.extents_size(), " extents");
  }
  int64_t moe_layers = 0;
  for (int64_t layer = 0; layer < layers; ++layer) moe_layers += IsMoeLayer(arch, layer) ? 1 : 0;
  int64_t records = 0;
  for (const ExtentEntry& e : manifest.extents()) records += e.experts() ? e.record_xxh3_size() : 0;
  if (records != moe_layers * arch.moe().n_routed_experts()) {
    return CorruptError("manifest: ", moe_layers, " MoE layers of ", arch.moe().n_routed_experts(),
                        " experts, but there are ", records, " expert records");
  }
  return absl::OkStatus();
}

// What can be said about the extents without knowing the model: they ascend, are aligned and lie inside the file.
absl::Status CheckPlaces(const Manifest& manifest, uint64_t data_end) {
  uint64_t end = kHeaderBytes;
  for (int i = 0; i < manifest.extents_size(); ++i) {
    const ExtentEntry& e = manifest.extents(i);
    const std::string where = ExtentName(manifest, i);
    if (e.record_bytes() == 0 || e.record_xxh3_size() == 0 || e.parts_size() == 0) {
      return CorruptError(where, ": has no bytes, no records or no parts");
    }
    const bool page = e.experts() || e.record_bytes() >= kPageAlignFrom;
    const uint64_t alignment = page ? kPageBytes : kSmallAlign;
    if (e.offset() % alignment != 0) {
      return CorruptError(where, ": offset ", e.offset(), " is not a multiple of ", alignment);
    }
    if (e.offset() < end) {
      return CorruptError(where, ": offset ", e.offset(), " lies before byte ", end,
                          i == 0 ? ", the end of the header" : ", the end of the extent before it");
    }
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(e.record_bytes(), static_cast<uint64_t>(e.record_xxh3_size()), &bytes) ||
        __builtin_add_overflow(e.offset(), bytes, &end) || end > data_end) {
      return CorruptError(where, ": ", e.record_xxh3_size(), " records of ", e.record_bytes(), " bytes at ", e.offset(),
                          " run past the ", manifest.has_volumes() ? "end of the last volume" : "manifest", " at ",
                          data_end);
    }
  }
  return absl::OkStatus();
}

// The format of every tensor of the schema, each named exactly once by the manifest.
absl::StatusOr<std::vector<FormatId>> CollectFormats(const Manifest& manifest, const ModelSchema& schema) {
  const absl::Span<const TensorInfo> tensors = schema.tensors();
  std::vector<FormatId> formats(tensors.size());
  std::vector<bool> seen(tensors.size(), false);
  const int64_t experts = schema.arch().moe().n_routed_experts();
  const auto set = [&](int64_t index, FormatId format) {
    const bool twice = seen[static_cast<size_t>(index)];
    formats[static_cast<size_t>(index)] = format;
    seen[static_cast<size_t>(index)] = true;
    return !twice;
  };
  for (int i = 0; i < manifest.extents_size(); ++i) {
    const ExtentEntry& e = manifest.extents(i);
    for (const PartEntry& part : e.parts()) {
      const std::string where = absl::StrCat(ExtentName(manifest, i), " ", part.role());
      const absl::StatusOr<TensorRole> role = RoleFromName(part.role());
      if (!role.ok()) return UnsupportedError(ExtentName(manifest, i), ": ", role.status().message());
      const absl::StatusOr<FormatId> format = FormatFromName(part.format());
      if (!format.ok()) return WithContext(format.status(), where);
      const bool is_expert = InfoOf(*role).scope == TensorScope::kExpert;
      if (is_expert != e.experts()) {
        return CorruptError(where, is_expert ? ": a routed expert outside an extent of experts"
                                             : ": not a routed expert, in an extent of experts");
      }
      const int64_t first = schema.Find(*role, e.layer(), is_expert ? 0 : -1);
      if (first < 0) return CorruptError(where, ": the model has no such tensor in layer ", e.layer());
      for (int64_t expert = 0; expert < (is_expert ? experts : 1); ++expert) {
        const int64_t index = is_expert ? schema.Find(*role, e.layer(), expert) : first;
        if (!set(index, *format)) return CorruptError(where, ": the tensor appears twice");
      }
      if (*role == TensorRole::kRouterBias && *format != FormatId::kF32) {
        return CorruptError(where, ": the correction bias must be f32, found ", part.format());
      }
      if (InfoOf(*role).is_vector && !FormatOf(*format).vector_ok) {
        return CorruptError(where, ": a vector cannot be stored as ", part.format());
      }
    }
  }
  for (size_t t = 0; t < seen.size(); ++t) {
    if (!seen[t]) return CorruptError("manifest: lacks the tensor ", tensors[t].Name());
  }
  return formats;
}

absl::Status CheckStats(const std::string& where, const PartEntry& part, int64_t records) {
  KOMPAKT_RETURN_IF_ERROR(ExpectEqual(where, "number of error statistics", part.exact() ? 0 : records,
                                      static_cast<int64_t>(part.stats_size())));
  for (const ErrorStats& s : part.stats()) {
    KOMPAKT_RETURN_IF_ERROR(
        ExpectEqual(where, "count of error statistics", static_cast<uint64_t>(part.rows() * part.cols()), s.count()));
    for (double value : {s.sum_squared_error(), s.sum_squared_weight(), static_cast<double>(s.max_abs_error())}) {
      if (!(value >= 0) || !std::isfinite(value)) {
        return CorruptError(where, ": an error statistic is ", value, ", expected finite and >= 0");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckExtent(const std::string& where, const Extent& expected, const ExtentEntry& found,
                         bool has_source_xxh3) {
  KOMPAKT_RETURN_IF_ERROR(ExpectEqual(where, "layer", expected.layer, found.layer()));
  KOMPAKT_RETURN_IF_ERROR(ExpectEqual(where, "experts", expected.experts, found.experts()));
  KOMPAKT_RETURN_IF_ERROR(
      ExpectEqual(where, "number of parts", static_cast<int>(expected.parts.size()), found.parts_size()));
  for (size_t p = 0; p < expected.parts.size(); ++p) {
    const ExtentPart& e = expected.parts[p];
    const PartEntry& f = found.parts(static_cast<int>(p));
    const std::string part = absl::StrCat(where, " part ", p);
    KOMPAKT_RETURN_IF_ERROR(ExpectEqual(part, "role", InfoOf(e.role).name, absl::string_view(f.role())));
    KOMPAKT_RETURN_IF_ERROR(ExpectEqual(part, "format", FormatOf(e.format).name, absl::string_view(f.format())));
    KOMPAKT_RETURN_IF_ERROR(ExpectEqual(part, "rows", e.shape.rows, f.rows()));
    KOMPAKT_RETURN_IF_ERROR(ExpectEqual(part, "cols", e.shape.cols, f.cols()));
    KOMPAKT_RETURN_IF_ERROR(ExpectEqual(part, "bytes", e.blob.total_bytes, f.bytes()));
    KOMPAKT_RETURN_IF_ERROR(ExpectEqual(part, "offset_in_record", e.offset_in_record, f.offset_in_record()));
    KOMPAKT_RETURN_IF_ERROR(CheckStats(part, f, expected.record_count));
    KOMPAKT_RETURN_IF_ERROR(ExpectEqual(part, "number of source checksums",
                                        has_source_xxh3 ? expected.record_count : int64_t{0},
                                        static_cast<int64_t>(f.source_xxh3_size())));
    if (f.exact() && !FormatOf(e.format).exact) return CorruptError(part, ": ", f.format(), " cannot be exact");
  }
  KOMPAKT_RETURN_IF_ERROR(
      ExpectEqual(where, "number of records", expected.record_count, static_cast<int64_t>(found.record_xxh3_size())));
  KOMPAKT_RETURN_IF_ERROR(ExpectEqual(where, "record_bytes", expected.record_bytes, found.record_bytes()));
  return ExpectEqual(where, "offset", expected.offset, found.offset());
}

}  // namespace

absl::StatusOr<CheckedManifest> DescribedBy(const Manifest& manifest) {
  absl::StatusOr<ModelSchema> schema = ModelSchema::Create(manifest.arch());
  if (!schema.ok()) return AsDamage(schema.status());
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<FormatId> formats, CollectFormats(manifest, *schema));
  absl::StatusOr<PackedLayout> layout = PackedLayout::Create(*schema, formats);
  if (!layout.ok()) return AsDamage(layout.status());
  return CheckedManifest{*std::move(schema), *std::move(layout)};
}

absl::StatusOr<CheckedManifest> CheckManifest(const Manifest& manifest, uint64_t data_end) {
  KOMPAKT_RETURN_IF_ERROR(CheckPlausible(manifest));
  KOMPAKT_RETURN_IF_ERROR(CheckPlaces(manifest, data_end));
  KOMPAKT_ASSIGN_OR_RETURN(CheckedManifest described, DescribedBy(manifest));
  const PackedLayout& layout = described.layout;
  KOMPAKT_RETURN_IF_ERROR(
      ExpectEqual("manifest", "number of extents", static_cast<int>(layout.extents().size()), manifest.extents_size()));
  // Files of version 1.0 have none; of others, every part has them.
  const bool has_source_xxh3 = manifest.extents(0).parts(0).source_xxh3_size() != 0;
  for (int i = 0; i < manifest.extents_size(); ++i) {
    KOMPAKT_RETURN_IF_ERROR(CheckExtent(ExtentName(manifest, i), layout.extents()[static_cast<size_t>(i)],
                                        manifest.extents(i), has_source_xxh3));
  }
  KOMPAKT_RETURN_IF_ERROR(ExpectEqual(manifest.has_volumes() ? "manifest" : "footer",
                                      manifest.has_volumes() ? "end of the last volume" : "manifest_offset",
                                      layout.data_end(), data_end));
  return described;
}

}  // namespace kompakt
