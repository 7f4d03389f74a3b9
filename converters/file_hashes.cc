#include "converters/file_hashes.h"

#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/types/span.h"
#include "converters/input_file.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kChunkBytes = uint64_t{4} << 20;

absl::StatusOr<SourceFile> HashFile(const std::string& folder, const std::string& name) {
  KOMPAKT_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(JoinPath(folder, name)));
  file.AdviseSequential();
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  if (state == nullptr) return absl::ResourceExhaustedError("out of memory for a hash state");
  XXH3_64bits_reset(state.get());
  std::vector<uint8_t> chunk(static_cast<size_t>(std::min(kChunkBytes, file.size_bytes())));
  for (uint64_t offset = 0; offset < file.size_bytes(); offset += kChunkBytes) {
    const absl::Span<uint8_t> bytes(chunk.data(),
                                    static_cast<size_t>(std::min(kChunkBytes, file.size_bytes() - offset)));
    KOMPAKT_RETURN_IF_ERROR(file.ReadAt(offset, bytes));
    XXH3_64bits_update(state.get(), bytes.data(), bytes.size());
  }
  SourceFile source;
  source.set_name(name);
  source.set_bytes(file.size_bytes());
  source.set_xxh3(XXH3_64bits_digest(state.get()));
  return source;
}

}  // namespace

absl::StatusOr<std::vector<SourceFile>> HashFolderFiles(const std::string& folder, std::vector<std::string> names,
                                                        int threads) {
  std::sort(names.begin(), names.end());
  std::vector<absl::StatusOr<SourceFile>> results(names.size(), absl::CancelledError());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < names.size(); i = next++) results[i] = HashFile(folder, names[i]);
  };
  std::vector<std::thread> workers;
  const size_t extra = std::min(names.size(), static_cast<size_t>(std::max(threads, 1))) - (names.empty() ? 0 : 1);
  try {
    for (size_t i = 0; i < extra; ++i) workers.emplace_back(work);
  } catch (const std::system_error&) {
    // The system gives no more threads: those that run, and this one, do the rest.
  }
  work();
  for (std::thread& worker : workers) worker.join();

  std::vector<SourceFile> files;
  for (absl::StatusOr<SourceFile>& result : results) {
    if (!result.ok()) return result.status();
    files.push_back(*std::move(result));
  }
  return files;
}

absl::StatusOr<std::vector<SourceFile>> ListFolderFiles(const std::string& folder, std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  std::vector<SourceFile> files;
  for (const std::string& name : names) {
    KOMPAKT_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(JoinPath(folder, name)));
    SourceFile& source = files.emplace_back();
    source.set_name(name);
    source.set_bytes(file.size_bytes());
  }
  return files;
}

}  // namespace kompakt
