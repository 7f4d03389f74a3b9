// What is known of a packed file before its weights: the extents of its manifest and its size (format/packed_writer.h).
#include <google/protobuf/stubs/logging.h>

#include "format/packed_frame.h"
#include "format/packed_writer.h"
#include "format/status.h"

namespace kompakt {
namespace {

// `manifest` with every field that the conversion fills in present, so that it has its final length.
Manifest WithLateFields(const PackedLayout& layout, Manifest manifest) {
  for (SourceFile& file : *manifest.mutable_provenance()->mutable_source_files()) file.set_xxh3(file.xxh3());
  for (size_t e = 0; e < layout.extents().size(); ++e) {
    ExtentEntry& entry = *manifest.mutable_extents(static_cast<int>(e));
    const int records = static_cast<int>(layout.extents()[e].record_count);
    entry.mutable_record_xxh3()->Resize(records, 0);
    for (PartEntry& part : *entry.mutable_parts()) {
      part.clear_stats();
      part.mutable_source_xxh3()->Resize(records, 0);
      for (int r = 0; !part.exact() && r < records; ++r) {
        ErrorStats& stats = *part.add_stats();
        stats.set_sum_squared_error(0);
        stats.set_sum_squared_weight(0);
        stats.set_max_abs_error(0);
        stats.set_count(0);
      }
    }
  }
  return manifest;
}

}  // namespace

Manifest ManifestFor(const ModelSchema& schema, const PackedLayout& layout) {
  Manifest manifest;
  *manifest.mutable_arch() = schema.arch();
  for (const Extent& extent : layout.extents()) {
    ExtentEntry& entry = *manifest.add_extents();
    entry.set_offset(extent.offset);
    entry.set_record_bytes(extent.record_bytes);
    entry.set_layer(extent.layer);
    entry.set_experts(extent.experts);
    for (const ExtentPart& part : extent.parts) {
      PartEntry& p = *entry.add_parts();
      p.set_role(std::string(InfoOf(part.role).name));
      p.set_format(std::string(FormatOf(part.format).name));
      p.set_offset_in_record(part.offset_in_record);
      p.set_bytes(part.blob.total_bytes);
      p.set_rows(part.shape.rows);
      p.set_cols(part.shape.cols);
    }
  }
  return manifest;
}

absl::StatusOr<uint64_t> PackedFileBytes(const WritePlan& plan) {
  if (plan.manifest.extents_size() != static_cast<int>(plan.layout.extents().size())) {
    return absl::InternalError(absl::StrCat("plan: ", plan.layout.extents().size(), " extents, but the manifest has ",
                                            plan.manifest.extents_size()));
  }
  const google::protobuf::LogSilencer silence;
  const Manifest manifest = WithLateFields(plan.layout, plan.manifest);
  // A recipe or a file name may hold any bytes, a message may not; no reader would take the file.
  if (Manifest copy; !copy.ParseFromString(manifest.SerializeAsString())) {
    return UsageError("the recipe, a file name or another text that goes into the packed file is not valid UTF-8");
  }
  KOMPAKT_ASSIGN_OR_RETURN(const StoredManifest stored, EncodeManifest(manifest));
  return plan.layout.data_end() + stored.bytes.size() + kFooterBytes;
}

}  // namespace kompakt
