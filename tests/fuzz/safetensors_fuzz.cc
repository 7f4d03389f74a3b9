// Any bytes as a safetensors file: opened through a file in memory, and every tensor read when that succeeds.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "converters/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const int fd = memfd_create("input", MFD_CLOEXEC);
  if (fd < 0 || write(fd, data, size) != static_cast<ssize_t>(size)) std::abort();
  const auto file = kompakt::SafetensorsFile::Open(absl::StrCat("/proc/self/fd/", fd));
  if (file.ok()) {
    uint64_t end = 0;
    for (const kompakt::SafetensorsEntry& entry : file->entries()) {
      // What the header check promises.
      if (entry.begin != end || file->Find(entry.name) != &entry) std::abort();
      end = entry.end;
      std::vector<uint8_t> bytes(static_cast<size_t>(entry.bytes()));
      if (!file->Read(entry, 0, absl::MakeSpan(bytes)).ok()) std::abort();
    }
  }
  close(fd);
  return 0;
}
