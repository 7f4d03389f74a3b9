#include "tools/model_input.h"

#include <omp.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "converters/checkpoint.h"
#include "format/checksum.h"
#include "format/packed_source.h"
#include "format/status.h"
#include "runtime/exact_store.h"
#include "tools/terminal.h"

namespace kompakt {
namespace {

// NAME.kpk may stand for its volumes, and need not exist; a packed file says better than this what it lacks.
absl::StatusOr<bool> IsFolder(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) == 0) return S_ISDIR(info.st_mode);
  if (errno == ENOENT && absl::EndsWith(path, ".kpk")) return false;
  return IoError(errno, "open", path);
}

absl::StatusOr<uint64_t> IdentityOfFiles(const TensorSource& folder) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<SourceFile> files, folder.Files());
  std::string identity;
  for (const SourceFile& file : files) {
    absl::StrAppend(&identity, file.name(), "\n", file.bytes(), "\n", file.xxh3(), "\n");
  }
  return Xxh3(identity);
}

uint64_t IdentityOfFile(const PackedReader& file) { return file.file().files.front().manifest_xxh3; }

}  // namespace

absl::StatusOr<uint64_t> IdentityOf(const std::string& path, bool keep_mtp) {
  KOMPAKT_ASSIGN_OR_RETURN(const bool folder, IsFolder(path));
  if (!folder) {
    KOMPAKT_ASSIGN_OR_RETURN(const auto file, PackedReader::Open(path));
    return IdentityOfFile(*file);
  }
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, OpenCheckpoint(path, {.keep_mtp = keep_mtp}));
  return IdentityOfFiles(*source);
}

absl::StatusOr<std::unique_ptr<TensorSource>> OpenSource(const std::string& path, bool keep_mtp) {
  KOMPAKT_ASSIGN_OR_RETURN(const bool folder, IsFolder(path));
  if (folder) return OpenCheckpoint(path, {.keep_mtp = keep_mtp});
  KOMPAKT_ASSIGN_OR_RETURN(auto file, PackedReader::Open(path));
  if (keep_mtp && file->schema().arch().mtp_layers() == 0) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": expected an MTP layer to keep, found none"));
  }
  return OpenPackedSource(std::move(file));
}

absl::StatusOr<std::shared_ptr<const PackedReader>> OpenIfPacked(const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(const bool folder, IsFolder(path));
  if (folder) return nullptr;
  return PackedReader::Open(path);
}

absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const ModelOptions& options, bool keep_mtp) {
  KOMPAKT_ASSIGN_OR_RETURN(const bool folder, IsFolder(path));
  LoadedModel loaded;
  if (folder) {
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, OpenCheckpoint(path, {.keep_mtp = keep_mtp}));
    PrintNotice(absl::StrCat("note: ", path, " is an upstream checkpoint; it is run as it is, from memory"));
    loaded.assets = source->assets();
    for (const TensorInfo& tensor : source->schema().tensors()) {
      KOMPAKT_ASSIGN_OR_RETURN(const StoredForm form, source->Form(tensor));
      loaded.tensor_bytes += form.stored_bytes;
    }
    KOMPAKT_ASSIGN_OR_RETURN(loaded.identity_xxh3, IdentityOfFiles(*source));
    KOMPAKT_ASSIGN_OR_RETURN(loaded.weights, LoadExactWeights(*source, path, options.threads));
  } else {
    KOMPAKT_ASSIGN_OR_RETURN(auto file, PackedReader::Open(path));
    loaded.assets = file->manifest().assets();
    loaded.tensor_bytes = file->layout().tensor_bytes();
    loaded.identity_xxh3 = IdentityOfFile(*file);
    loaded.file = file;
    loaded.weights = PackedWeights(std::move(file));
  }
  KOMPAKT_ASSIGN_OR_RETURN(loaded.model, Model::Load(loaded.weights, options));
  return loaded;
}

absl::StatusOr<ModelAssets> OpenAssets(const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(const bool folder, IsFolder(path));
  if (folder) return ReadAssets(path);
  KOMPAKT_ASSIGN_OR_RETURN(const auto file, PackedReader::Open(path));
  return file->manifest().assets();
}

absl::StatusOr<int> ResolveThreads(int threads) {
  if (threads < 0 || threads > 1024) return UsageError("-t must lie in [0, 1024], found ", threads);
  return threads > 0 ? threads : omp_get_num_procs();
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::FILE* file = path == "-" ? stdin : std::fopen(path.c_str(), "rb");
  if (file == nullptr) return IoError(errno, "open", path);
  std::string text;
  char buffer[65536];
  size_t count = 0;
  while ((count = std::fread(buffer, 1, sizeof(buffer), file)) > 0) text.append(buffer, count);
  const int failure = std::ferror(file) != 0 ? errno : 0;
  if (file != stdin) std::fclose(file);
  if (failure != 0) return IoError(failure, "read", path);
  return text;
}

absl::StatusOr<std::vector<int32_t>> ParseIds(const std::string& text) {
  std::string list = text;
  if (!text.empty() && text[0] == '@') {
    KOMPAKT_ASSIGN_OR_RETURN(list, ReadTextFile(text.substr(1)));
  }
  std::vector<int32_t> ids;
  for (const absl::string_view word : absl::StrSplit(list, absl::ByAnyChar(", \t\r\n[]"), absl::SkipEmpty())) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(word, &id) || id < 0) return UsageError("\"", word.substr(0, 40), "\" is no token id");
    ids.push_back(id);
  }
  return ids;
}

}  // namespace kompakt
