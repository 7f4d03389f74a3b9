#include "format/plan_identity.h"

#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "format/checksum.h"

namespace kompakt {
namespace {

// More would not fit a message that somebody reads.
constexpr size_t kMaxNamed = 5;

bool SameMessage(const google::protobuf::MessageLite& a, const google::protobuf::MessageLite& b) {
  return a.SerializeAsString() == b.SerializeAsString();
}

// Names with a description of their content: the keys that differ, as sentences.
void CompareNamed(const std::string& what, const std::map<std::string, std::string>& before,
                  const std::map<std::string, std::string>& now, std::vector<std::string>& out) {
  std::vector<std::string> found;
  for (const auto& [name, content] : before) {
    const auto other = now.find(name);
    if (other == now.end()) {
      found.push_back(absl::StrCat(what, " ", name, " is gone"));
    } else if (other->second != content) {
      found.push_back(absl::StrCat(what, " ", name, " changed (", content, " before, ", other->second, " now)"));
    }
  }
  for (const auto& [name, content] : now) {
    if (before.count(name) == 0) found.push_back(absl::StrCat(what, " ", name, " is new"));
  }
  const size_t rest = found.size() > kMaxNamed ? found.size() - kMaxNamed : 0;
  found.resize(found.size() - rest);
  if (rest != 0) found.push_back(absl::StrCat("and ", rest, " more"));
  out.insert(out.end(), found.begin(), found.end());
}

std::map<std::string, std::string> SourceFiles(const Manifest& m) {
  std::map<std::string, std::string> files;
  for (const SourceFile& f : m.provenance().source_files()) {
    files[f.name()] = absl::StrCat(f.bytes(), " bytes, XXH3 ", HexOf(f.xxh3()));
  }
  return files;
}

std::map<std::string, std::string> Assets(const Manifest& m) {
  std::map<std::string, std::string> files;
  for (const AssetFile& f : m.assets().files()) files[f.name()] = absl::StrCat("XXH3 ", f.content());
  return files;
}

std::string VolumesText(const Manifest& m) {
  if (!m.has_volumes()) return "one file";
  const auto& ends = m.volumes().ends();
  return absl::StrCat(ends.size(), " volumes, the first with ", ends.empty() ? 0 : ends[0], " bytes of data");
}

}  // namespace

Manifest PlanIdentity(const Manifest& manifest) {
  Manifest identity;
  *identity.mutable_arch() = manifest.arch();
  *identity.mutable_provenance() = manifest.provenance();
  for (SourceFile& file : *identity.mutable_provenance()->mutable_source_files()) file.set_xxh3(file.xxh3());
  *identity.mutable_features() = manifest.features();
  if (manifest.has_volumes()) {
    *identity.mutable_volumes() = manifest.volumes();
    identity.mutable_volumes()->set_set_id(0);
  }
  identity.set_recipe(manifest.recipe());
  *identity.mutable_assets()->mutable_stop_ids() = manifest.assets().stop_ids();
  identity.mutable_assets()->set_bos_id(manifest.assets().bos_id());
  identity.mutable_assets()->set_has_bos_id(manifest.assets().has_bos_id());
  for (const AssetFile& file : manifest.assets().files()) {
    AssetFile* short_file = identity.mutable_assets()->add_files();
    short_file->set_name(file.name());
    short_file->set_content(HexOf(Xxh3(file.content())));
  }
  *identity.mutable_extents() = manifest.extents();
  for (ExtentEntry& extent : *identity.mutable_extents()) {
    extent.clear_record_xxh3();
    for (PartEntry& part : *extent.mutable_parts()) {
      part.clear_stats();
      part.clear_source_xxh3();
    }
  }
  return identity;
}

std::string PlanDifference(const Manifest& before, const Manifest& now) {
  if (SameMessage(before, now)) return "";
  std::vector<std::string> found;
  const std::string& tool_before = before.provenance().tool_version();
  const std::string& tool_now = now.provenance().tool_version();
  if (tool_before != tool_now) {
    found.push_back(absl::StrCat("the version of kompakt differs (", tool_before, " before, ", tool_now, " now)"));
  }
  CompareNamed("source file", SourceFiles(before), SourceFiles(now), found);
  if (!SameMessage(before.arch(), now.arch())) found.push_back("the hyper-parameters of the model differ");
  if (before.recipe() != now.recipe()) found.push_back("the recipe differs");
  if (before.provenance().calibration_xxh3() != now.provenance().calibration_xxh3()) {
    found.push_back("the calibration data differ");
  }
  CompareNamed("asset", Assets(before), Assets(now), found);
  if (!SameMessage(before.volumes(), now.volumes())) {
    found.push_back(absl::StrCat("the volumes differ (", VolumesText(before), " before, ", VolumesText(now), " now)"));
  }
  if (found.empty()) found.push_back("the plan of the file differs");
  return absl::StrJoin(found, "; ");
}

}  // namespace kompakt
