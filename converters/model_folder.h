// Writes a Hugging Face model folder: safetensors files with their index, config.json and whatever belongs beside them.
//
// The folder appears under its name only when everything in it is written and synced: until then it is
// `<destination>.partial`, which a failure or an interruption removes and a crash leaves to the next run.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "converters/upstream_tensors.h"

namespace kompakt {

struct FolderFile {
  std::string name;
  std::string content;
};

struct FolderOptions {
  int threads = 1;
  // What the pieces in work may take in memory, all threads together.
  uint64_t ram_bytes = uint64_t{256} << 20;
  uint64_t shard_bytes = 5'000'000'000;  // a file is larger only where one tensor is
  bool force = false;                    // replace a folder that holds plain files only
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(uint64_t done, uint64_t total)> progress = nullptr;  // from one thread at a time
};

struct FolderReport {
  std::vector<std::string> files;  // as written, ascending
  int64_t tensors = 0;
  uint64_t tensor_bytes = 0;
  std::vector<std::string> observations;  // what reading the tensors has shown (OutputTensor)
};

// kAlreadyExists: the destination is there and `force` is not set, or it is more than a folder of plain files.
// kResourceExhausted: the disk is full. kCancelled. Otherwise what reading a tensor fails with.
absl::StatusOr<FolderReport> WriteModelFolder(std::vector<OutputTensor> tensors, const std::vector<FolderFile>& files,
                                              const std::string& destination, const FolderOptions& options);

// config.json of the written folder: the text of the source's, without its quantization and with torch_dtype set; of
// kSource the text itself. kDataLoss when it is no JSON object.
absl::StatusOr<std::string> ConfigForDtype(const std::string& text, absl::string_view file, ExportDtype dtype);

}  // namespace kompakt
