#include "converters/model_folder.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"
#include "converters/input_file.h"
#include "converters/json.h"
#include "format/file_system.h"
#include "format/parallel_for.h"
#include "format/status.h"
#include "format/write_behind.h"

namespace kompakt {
namespace {

namespace stdfs = std::filesystem;

constexpr uint64_t kLargestPiece = uint64_t{8} << 20;

// ---- folders

bool HoldsPlainFilesOnly(const std::string& folder) {
  std::error_code error;
  if (!stdfs::is_directory(stdfs::symlink_status(folder, error))) return false;
  for (stdfs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (!stdfs::is_regular_file(at->symlink_status(error))) return false;
  }
  return !error;
}

absl::Status RemoveFolder(const std::string& folder) {
  std::error_code error;
  stdfs::remove_all(folder, error);
  return error ? IoError(error.value(), "remove", folder) : absl::OkStatus();
}

absl::Status Move(const std::string& from, const std::string& to) {
  std::error_code error;
  stdfs::rename(from, to, error);
  return error ? IoError(error.value(), "rename to", to) : absl::OkStatus();
}

std::string WithoutSlash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

absl::Status CheckDestination(const std::string& destination, bool force) {
  std::error_code error;
  if (!stdfs::exists(stdfs::symlink_status(destination, error))) return absl::OkStatus();
  if (!force) {
    return absl::AlreadyExistsError(absl::StrCat(destination, " exists; --force replaces it, another name keeps it"));
  }
  if (HoldsPlainFilesOnly(destination)) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat(destination, " is not a folder of plain files, so --force leaves it alone"));
}

// An empty folder for the work, whatever an earlier run left there.
absl::Status MakePartial(const std::string& partial) {
  std::error_code error;
  if (stdfs::exists(stdfs::symlink_status(partial, error))) {
    if (!HoldsPlainFilesOnly(partial)) {
      return absl::AlreadyExistsError(absl::StrCat(partial, " is in the way: expected what an earlier run left"));
    }
    KOMPAKT_RETURN_IF_ERROR(RemoveFolder(partial));
  }
  stdfs::create_directory(partial, error);
  return error ? IoError(error.value(), "create", partial) : absl::OkStatus();
}

absl::Status WriteWhole(const std::string& path, absl::string_view content) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, PosixFileSystem().OpenForWrite(path));
  KOMPAKT_RETURN_IF_ERROR(
      file->WriteAt(0, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(content.data()), content.size())));
  return file->Sync();
}

// ---- shards

struct Shard {
  std::string name;
  std::vector<OutputTensor*> tensors;  // in data order
  std::string header;                  // length and JSON
  uint64_t bytes = 0;                  // of the tensors
};

// As the reference library writes: widest dtype first, then by name; the JSON padded so that data begins at a multiple
// of 8.
void FinishShard(Shard* shard) {
  std::sort(shard->tensors.begin(), shard->tensors.end(), [](const OutputTensor* a, const OutputTensor* b) {
    return a->dtype != b->dtype ? a->dtype > b->dtype : a->name < b->name;
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t offset = 0;
  for (const OutputTensor* tensor : shard->tensors) {
    header[tensor->name] = {{"dtype", std::string(InfoOf(tensor->dtype).name)},
                            {"shape", tensor->shape},
                            {"data_offsets", {offset, offset + tensor->bytes()}}};
    offset += tensor->bytes();
  }
  std::string json = header.dump();
  json.resize((json.size() + 7) / 8 * 8, ' ');
  for (size_t i = 0; i < 8; ++i) shard->header.push_back(static_cast<char>(json.size() >> (8 * i)));
  shard->header += json;
}

std::vector<Shard> CutIntoShards(std::vector<OutputTensor>& tensors, uint64_t shard_bytes) {
  std::vector<Shard> shards(1);
  for (OutputTensor& tensor : tensors) {
    if (!shards.back().tensors.empty() && shards.back().bytes + tensor.bytes() > shard_bytes) shards.emplace_back();
    shards.back().tensors.push_back(&tensor);
    shards.back().bytes += tensor.bytes();
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].name = shards.size() == 1 ? "model.safetensors"
                                        : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
    FinishShard(&shards[i]);
  }
  return shards;
}

std::string IndexText(const std::vector<Shard>& shards) {
  nlohmann::ordered_json index;
  uint64_t total = 0;
  std::map<std::string, std::string> weight_map;
  for (const Shard& shard : shards) {
    total += shard.bytes;
    for (const OutputTensor* tensor : shard.tensors) weight_map[tensor->name] = shard.name;
  }
  index["metadata"] = {{"total_size", total}};
  index["weight_map"] = weight_map;
  return index.dump(2) + "\n";
}

class FolderWriter {
 public:
  FolderWriter(std::string folder, const FolderOptions& options, uint64_t total)
      : folder_(std::move(folder)), options_(options), total_(total) {}

  absl::Status Write(const Shard& shard) {
    const std::string path = JoinPath(folder_, shard.name);
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, PosixFileSystem().OpenForWrite(path));
    KOMPAKT_RETURN_IF_ERROR(file->Allocate(shard.header.size() + shard.bytes));
    WriteBehind write_behind(*file);
    std::vector<Piece> pieces;
    uint64_t offset = shard.header.size();
    for (const OutputTensor* tensor : shard.tensors) {
      const int64_t rows = RowsAtOnce(*tensor);
      for (int64_t row = 0; row < tensor->rows; row += rows) {
        pieces.push_back(
            {tensor, row, std::min(tensor->rows, row + rows), offset + static_cast<uint64_t>(row) * tensor->row_bytes});
      }
      offset += tensor->bytes();
    }
    ParallelFor(options_.threads, static_cast<int64_t>(pieces.size()), [&](int64_t i, int /*worker*/) {
      if (Stopped()) return;
      const Piece& piece = pieces[static_cast<size_t>(i)];
      absl::Status status = WritePiece(*file, piece);
      if (status.ok()) status = write_behind.Wrote(piece.offset, piece.bytes());
      Report(status, piece.bytes());
    });
    KOMPAKT_RETURN_IF_ERROR(failure_);
    if (Interrupted()) return absl::CancelledError("nothing of the export is kept");
    // Its header makes it a file of tensors: last, so that nothing that a crash leaves passes for one.
    KOMPAKT_RETURN_IF_ERROR(file->Sync());
    KOMPAKT_RETURN_IF_ERROR(file->WriteAt(
        0, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(shard.header.data()), shard.header.size())));
    return file->Sync();
  }

 private:
  struct Piece {
    const OutputTensor* tensor;
    int64_t row_begin;
    int64_t row_end;
    uint64_t offset;

    uint64_t bytes() const { return static_cast<uint64_t>(row_end - row_begin) * tensor->row_bytes; }
  };

  int64_t RowsAtOnce(const OutputTensor& tensor) const {
    const auto threads = static_cast<uint64_t>(std::max(options_.threads, 1));
    const uint64_t budget = std::min(kLargestPiece, options_.ram_bytes / threads);
    const auto rows = static_cast<int64_t>(budget / (tensor.row_bytes + tensor.scratch_row_bytes + 1));
    return std::max(tensor.row_step, rows / tensor.row_step * tensor.row_step);
  }

  static absl::Status WritePiece(File& file, const Piece& piece) {
    std::vector<uint8_t> bytes(piece.bytes());
    KOMPAKT_RETURN_IF_ERROR(piece.tensor->read(piece.row_begin, piece.row_end, bytes.data()));
    return file.WriteAt(piece.offset, bytes);
  }

  bool Interrupted() const { return options_.interrupted != nullptr && options_.interrupted->load(); }
  bool Stopped() const { return failed_.load() || Interrupted(); }

  void Report(const absl::Status& status, uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!status.ok() && failure_.ok()) failure_ = status;
    if (!status.ok()) failed_ = true;
    done_ += bytes;
    if (options_.progress) options_.progress(done_, total_);
  }

  std::string folder_;
  const FolderOptions& options_;
  uint64_t total_;
  std::mutex mutex_;  // guards what follows and the call of progress
  absl::Status failure_;
  std::atomic<bool> failed_{false};
  uint64_t done_ = 0;
};

absl::StatusOr<FolderReport> WriteInto(const std::string& folder, std::vector<OutputTensor>& tensors,
                                       const std::vector<FolderFile>& files, const FolderOptions& options) {
  const std::vector<Shard> shards = CutIntoShards(tensors, options.shard_bytes);
  FolderReport report;
  report.tensors = static_cast<int64_t>(tensors.size());
  for (const Shard& shard : shards) report.tensor_bytes += shard.bytes;
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t free_bytes, PosixFileSystem().FreeBytes(JoinPath(folder, shards[0].name)));
  if (free_bytes < report.tensor_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(folder, " needs ", report.tensor_bytes, " bytes, the disk has ", free_bytes, " free"));
  }
  FolderWriter writer(folder, options, report.tensor_bytes);
  for (const Shard& shard : shards) {
    KOMPAKT_RETURN_IF_ERROR(writer.Write(shard));
    report.files.push_back(shard.name);
  }
  for (const OutputTensor& tensor : tensors) {
    if (!tensor.observations) continue;
    for (std::string& observation : tensor.observations()) report.observations.push_back(std::move(observation));
  }
  std::vector<FolderFile> texts = files;
  if (shards.size() > 1) texts.push_back({"model.safetensors.index.json", IndexText(shards)});
  for (const FolderFile& file : texts) {
    KOMPAKT_RETURN_IF_ERROR(WriteWhole(JoinPath(folder, file.name), file.content));
    report.files.push_back(file.name);
  }
  std::sort(report.files.begin(), report.files.end());
  return report;
}

}  // namespace

absl::StatusOr<FolderReport> WriteModelFolder(std::vector<OutputTensor> tensors, const std::vector<FolderFile>& files,
                                              const std::string& destination, const FolderOptions& options) {
  const std::string target = WithoutSlash(destination);
  const std::string partial = target + ".partial";
  KOMPAKT_RETURN_IF_ERROR(CheckDestination(target, options.force));
  if (tensors.empty()) return absl::FailedPreconditionError("there is no tensor to write");
  KOMPAKT_RETURN_IF_ERROR(MakePartial(partial));
  absl::StatusOr<FolderReport> report = WriteInto(partial, tensors, files, options);
  if (!report.ok()) {
    (void)RemoveFolder(partial);  // the failure that matters is the first one
    return report.status();
  }
  // Once more: the work may have taken hours.
  KOMPAKT_RETURN_IF_ERROR(CheckDestination(target, options.force));
  if (PathExists(target)) {
    const std::string replaced = target + ".replaced";
    KOMPAKT_RETURN_IF_ERROR(Move(target, replaced));
    KOMPAKT_RETURN_IF_ERROR(Move(partial, target));
    KOMPAKT_RETURN_IF_ERROR(RemoveFolder(replaced));
  } else {
    KOMPAKT_RETURN_IF_ERROR(PosixFileSystem().Rename(partial, target));
  }
  return report;
}

absl::StatusOr<std::string> ConfigForDtype(const std::string& text, absl::string_view file, ExportDtype dtype) {
  KOMPAKT_ASSIGN_OR_RETURN(const nlohmann::json checked, ParseJson(text, file));
  if (!checked.is_object()) return CorruptError(file, ": expected an object, found ", JsonKind(checked));
  if (dtype == ExportDtype::kSource) return text;
  // The keys stay in their order.
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  for (const char* key : {"quantization_config", "compression_config", "quantization", "expert_dtype"}) {
    config.erase(key);
  }
  // transformers 5 writes "dtype" and reads both.
  const char* name = dtype == ExportDtype::kF32 ? "float32" : "bfloat16";
  if (config.contains("dtype")) config["dtype"] = name;
  if (config.contains("torch_dtype") || !config.contains("dtype")) config["torch_dtype"] = name;
  return config.dump(2) + "\n";
}

}  // namespace kompakt
