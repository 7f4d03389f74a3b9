#include "converters/safetensors_writer.h"

#include <algorithm>
#include <memory>

#include "format/file_system.h"
#include "format/status.h"
#include "nlohmann/json.hpp"

namespace kompakt {
namespace {

// Bytes of one element; 0 for a dtype that this writer has no use for.
uint64_t ElementBytes(const std::string& dtype) {
  if (dtype == "I64") return 8;
  if (dtype == "F32") return 4;
  return 0;
}

absl::Status CheckTensor(const TensorToWrite& tensor) {
  uint64_t expected = ElementBytes(tensor.dtype);
  if (expected == 0) return UsageError("safetensors: ", tensor.name, " has the unwritable dtype ", tensor.dtype);
  for (const int64_t n : tensor.shape) expected *= static_cast<uint64_t>(n);
  if (expected == tensor.bytes.size()) return absl::OkStatus();
  return UsageError("safetensors: ", tensor.name, " needs ", expected, " bytes for its shape, found ",
                    tensor.bytes.size());
}

std::string Header(const std::vector<TensorToWrite>& tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  uint64_t offset = 0;
  for (const TensorToWrite& t : tensors) {
    header[t.name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {offset, offset + t.bytes.size()}}};
    offset += t.bytes.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

}  // namespace

absl::Status WriteSafetensors(const std::string& path, std::vector<TensorToWrite> tensors) {
  for (const TensorToWrite& t : tensors) KOMPAKT_RETURN_IF_ERROR(CheckTensor(t));
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const uint64_t wa = ElementBytes(a.dtype), wb = ElementBytes(b.dtype);
    return wa != wb ? wa > wb : a.name < b.name;
  });
  const std::string header = Header(tensors);
  FileSystem& fs = PosixFileSystem();
  const std::string partial = path + ".partial";
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, fs.OpenForWrite(partial));
  KOMPAKT_RETURN_IF_ERROR(file->Truncate(0));
  uint8_t length[8];
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<uint8_t>(header.size() >> (8 * i));
  KOMPAKT_RETURN_IF_ERROR(file->WriteAt(0, length));
  KOMPAKT_RETURN_IF_ERROR(
      file->WriteAt(8, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(header.data()), header.size())));
  uint64_t offset = 8 + header.size();
  for (const TensorToWrite& t : tensors) {
    KOMPAKT_RETURN_IF_ERROR(file->WriteAt(offset, t.bytes));
    offset += t.bytes.size();
  }
  KOMPAKT_RETURN_IF_ERROR(file->Sync());
  return fs.Rename(partial, path);
}

}  // namespace kompakt
