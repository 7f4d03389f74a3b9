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
#include "runtime/expert_cache.h"
#include "runtime/paged_weights.h"
#include "runtime/paging_plan.h"
#include "tools/machine_memory.h"
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

absl::StatusOr<std::shared_ptr<const WeightStore>> PagedWithin(const MemoryLimit& limit, const SessionNeed& need,
                                                               std::shared_ptr<const PackedReader> file,
                                                               const ModelOptions& options) {
  KOMPAKT_ASSIGN_OR_RETURN(const PagingPlan plan,
                           PlanPaging(file->schema(), file->layout(), limit.ram_bytes,
                                      (limit.of_model_alone ? 0 : ProcessMemoryBytes()) + need.other_bytes,
                                      need.context, options.threads, options.cache_format));
  if (const uint64_t available = AvailableMemoryBytes(); available != 0 && limit.ram_bytes > available) {
    PrintNotice(absl::StrCat("warning: --ram ", HumanBytes(limit.ram_bytes), " is more than the ",
                             HumanBytes(available), " that are free"));
  }
  if (Verbose()) {
    PrintNotice(absl::StrCat("--ram: ", HumanBytes(plan.resident_bytes), " of weights that every token uses, ",
                             HumanBytes(plan.cache_bytes), " of KV cache, ", HumanBytes(plan.working_bytes),
                             " to work in, ", HumanBytes(plan.program_bytes), " for the program, ",
                             HumanBytes(plan.expert_bytes), " for experts: ", plan.least_slots, " of ", plan.experts,
                             " in each of ", plan.layers, " layers"));
  }
  return OpenPagedWeights(PosixFileSystem(), std::move(file), plan.expert_bytes, options.threads);
}

// A mapped file that does not fit is read again and again, a page at a time.
void SuggestLimit(const PackedReader& file) {
  const uint64_t available = AvailableMemoryBytes();
  if (available == 0 || file.file_bytes() <= available || ExpertCache::LeastBytes(file.layout()) == 0) return;
  PrintNotice(absl::StrCat("note: ", file.path(), " has ", HumanBytes(file.file_bytes()), ", and ",
                           HumanBytes(available), " of memory are free: without --ram ", (available >> 20) / 10 * 9,
                           "MiB, say, parts of it are read from disk again and again"));
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

absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const ModelOptions& options, bool keep_mtp,
                                      const MemoryLimit& limit) {
  KOMPAKT_ASSIGN_OR_RETURN(const bool folder, IsFolder(path));
  if (folder && limit.ram_bytes > 0) {
    return UsageError("--ram: expected a packed file to read from as needed, found the folder ", path);
  }
  LoadedModel loaded;
  if (folder) {
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, OpenCheckpoint(path, {.keep_mtp = keep_mtp}));
    PrintNotice(absl::StrCat("note: ", path, " is an upstream checkpoint; it is run as it is, from memory"));
    loaded.assets = source->assets();
    if (limit.need) KOMPAKT_RETURN_IF_ERROR(limit.need(loaded.assets, source->schema().arch()).status());
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
    SessionNeed need;
    if (limit.need) {
      KOMPAKT_ASSIGN_OR_RETURN(need, limit.need(loaded.assets, file->schema().arch()));
    }
    if (limit.ram_bytes > 0) {
      KOMPAKT_ASSIGN_OR_RETURN(loaded.weights, PagedWithin(limit, need, std::move(file), options));
    } else {
      if (limit.need) SuggestLimit(*file);
      loaded.weights = PackedWeights(std::move(file));
    }
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
