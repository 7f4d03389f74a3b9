#include "format/read_fully.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kMaxOffset = std::numeric_limits<off_t>::max();
// One system call never takes more, whatever the platform's limit is.
constexpr uint64_t kMaxTransfer = uint64_t{1} << 30;

}  // namespace

absl::StatusOr<uint64_t> ReadFully(const std::function<int64_t(uint8_t*, uint64_t, uint64_t)>& read, uint64_t offset,
                                   absl::Span<uint8_t> bytes, absl::string_view path) {
  if (offset > kMaxOffset || bytes.size() > kMaxOffset - offset) {
    return absl::OutOfRangeError(absl::StrCat("cannot read ", path, ": offset ", offset, " is out of range"));
  }
  uint64_t done = 0;
  while (done < bytes.size()) {
    const int64_t n = read(bytes.data() + done, std::min<uint64_t>(bytes.size() - done, kMaxTransfer), offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoError(errno, "read", path);
    if (n == 0) break;
    done += static_cast<uint64_t>(n);
  }
  return done;
}

absl::StatusOr<uint64_t> ReadFully(int fd, uint64_t offset, absl::Span<uint8_t> bytes, absl::string_view path) {
  return ReadFully([fd](uint8_t* data, uint64_t count,
                        uint64_t at) -> int64_t { return pread(fd, data, count, static_cast<off_t>(at)); },
                   offset, bytes, path);
}

}  // namespace kompakt
