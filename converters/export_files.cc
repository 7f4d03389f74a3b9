#include "converters/export_files.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/match.h"
#include "converters/input_file.h"
#include "converters/json.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kMaxConfigBytes = uint64_t{16} << 20;
constexpr uint64_t kMaxBesideBytes = uint64_t{256} << 20;

bool IsPlainFile(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

// Weights in any container, and what only describes them.
bool BelongsToWeights(absl::string_view name) {
  for (const absl::string_view end : {".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5",
                                      ".msgpack", ".onnx", ".partial"}) {
    if (absl::EndsWith(name, end)) return true;
  }
  return name == "config.json" || name == "hf_quant_config.json" || name == "params.json";
}

absl::StatusOr<std::vector<FolderFile>> ReadBeside(const std::string& folder) {
  std::vector<FolderFile> files;
  for (const std::string& name : ListFolder(folder)) {
    const std::string path = JoinPath(folder, name);
    if (absl::StartsWith(name, ".") || BelongsToWeights(name) || !IsPlainFile(path)) continue;
    KOMPAKT_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path));
    KOMPAKT_ASSIGN_OR_RETURN(std::string content, file.ReadAll(kMaxBesideBytes));
    files.push_back({name, std::move(content)});
  }
  return files;
}

absl::StatusOr<std::string> ReadConfig(const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path));
  return file.ReadAll(kMaxConfigBytes);
}

}  // namespace

absl::StatusOr<ExportFiles> OpenExportFiles(const std::string& path, const std::string& config_path) {
  if (!PathExists(path)) return absl::NotFoundError(absl::StrCat(path, ": no such file or folder"));
  const bool folder = IsFolder(path);
  KOMPAKT_ASSIGN_OR_RETURN(ShardSet shards, folder ? ShardSet::OpenLoose(path) : ShardSet::OpenFile(path));
  ExportFiles files{std::move(shards), {}, {}, {}};
  std::string config = config_path;
  if (config.empty() && folder && PathExists(JoinPath(path, "config.json"))) config = JoinPath(path, "config.json");
  if (!config.empty()) {
    KOMPAKT_ASSIGN_OR_RETURN(files.config, ReadConfig(config));
    KOMPAKT_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(files.config, config));
    if (!json.is_object()) return CorruptError(config, ": expected an object, found ", JsonKind(json));
    KOMPAKT_ASSIGN_OR_RETURN(files.quantization, ParseQuantization(JsonFields(json, config)));
  }
  const std::string hf = JoinPath(path, "hf_quant_config.json");
  if (folder && files.quantization.method == QuantMethod::kNone && PathExists(hf)) {
    KOMPAKT_ASSIGN_OR_RETURN(const std::string text, ReadConfig(hf));
    KOMPAKT_ASSIGN_OR_RETURN(files.quantization, ParseHfQuantConfig(text, hf));
  }
  if (folder) {
    KOMPAKT_ASSIGN_OR_RETURN(files.beside, ReadBeside(path));
  }
  return files;
}

}  // namespace kompakt
