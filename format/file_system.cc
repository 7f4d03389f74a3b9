#include "format/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <utility>

#include "format/read_fully.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kMaxOffset = std::numeric_limits<off_t>::max();
// One system call never takes more, whatever the platform's limit is.
constexpr uint64_t kMaxTransfer = uint64_t{1} << 30;
// What direct reads must be multiples of: the largest block that disks have.
constexpr uint64_t kDirectAlign = 4096;

class PosixFile : public File {
 public:
  PosixFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  // `direct_fd`: the same file opened for direct reads, or -1 where it cannot be. Reads leave no page in the cache.
  PosixFile(int fd, int direct_fd, std::string path)
      : fd_(fd), direct_fd_(direct_fd), keeps_cache_clean_(true), path_(std::move(path)) {}
  ~PosixFile() override {
    if (!mapped_.empty()) munmap(const_cast<uint8_t*>(mapped_.data()), mapped_.size());
    close(fd_);
    if (direct_fd_ >= 0) close(direct_fd_);
  }
  PosixFile(const PosixFile&) = delete;
  PosixFile& operator=(const PosixFile&) = delete;

  absl::Status WriteAt(uint64_t offset, absl::Span<const uint8_t> bytes) override {
    return WriteFully([this](const uint8_t* data, uint64_t count,
                             uint64_t at) -> int64_t { return pwrite(fd_, data, count, static_cast<off_t>(at)); },
                      offset, bytes, path_);
  }

  absl::Status ReadAt(uint64_t offset, absl::Span<uint8_t> bytes) const override {
    KOMPAKT_ASSIGN_OR_RETURN(
        const uint64_t done,
        ReadFully([this](uint8_t* data, uint64_t count, uint64_t at) -> int64_t { return ReadSome(data, count, at); },
                  offset, bytes, path_));
    if (done == bytes.size()) return absl::OkStatus();
    return CorruptError(path_, ": ends at byte ", offset + done, ", expected ", bytes.size(), " bytes at ", offset);
  }

  absl::StatusOr<uint64_t> Size() const override {
    struct stat info;
    if (fstat(fd_, &info) != 0) return IoError(errno, "examine", path_);
    return static_cast<uint64_t>(info.st_size);
  }

  absl::StatusOr<absl::Span<const uint8_t>> Map(uint64_t offset, uint64_t bytes) override {
    if (mapped_.empty()) {
      KOMPAKT_ASSIGN_OR_RETURN(const uint64_t size, Size());
      if (size != 0) {
        void* const address = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd_, 0);
        if (address == MAP_FAILED) return IoError(errno, "map", path_);
        // Only advice: what is not in the page cache is then read and mapped in pages of 2 MiB, where the file system
        // has large folios.
        (void)madvise(address, size, MADV_HUGEPAGE);
        mapped_ = absl::MakeConstSpan(static_cast<const uint8_t*>(address), size);
      }
    }
    if (offset > mapped_.size() || bytes > mapped_.size() - offset) {
      return CorruptError(path_, ": ends at byte ", mapped_.size(), ", expected ", bytes, " bytes at ", offset);
    }
    return mapped_.subspan(offset, bytes);
  }

  absl::Status Allocate(uint64_t bytes) override {
    if (bytes > kMaxOffset) return IoError(EFBIG, "allocate", path_);
    int error = 0;
    do {
      // Linux' own call, not posix_fallocate: glibc emulates that one by writing a byte to every block, which on a file
      // system without support takes as long as writing the file.
      error = fallocate(fd_, 0, 0, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
    } while (error == EINTR);
    if (error == EOPNOTSUPP || error == ENOSYS || error == EINVAL) return AllocateWithoutSupport(bytes);
    if (error != 0) return IoError(error, absl::StrCat("allocate ", bytes, " bytes for"), path_);
    return Truncate(bytes);
  }

  absl::Status Truncate(uint64_t bytes) override {
    if (ftruncate(fd_, static_cast<off_t>(bytes)) != 0) return IoError(errno, "set the size of", path_);
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    if (fsync(fd_) != 0) return IoError(errno, "sync", path_);
    // Only advice: a later read then checks the device and not the page cache.
    (void)posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
    return absl::OkStatus();
  }

  void WillNeed(uint64_t offset, uint64_t bytes) const override { AdviseWillNeed(fd_, offset, bytes); }
  void Drop(uint64_t offset, uint64_t bytes) const override {
    if (!mapped_.empty() && bytes > 0 && offset < mapped_.size()) {
      // The pages of a mapping count as this process' memory for as long as they are mapped. What lies beside the range
      // on its first and last page comes back when it is touched.
      const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
      const uint64_t begin = offset / page * page;
      const uint64_t end = std::min<uint64_t>(offset + bytes, mapped_.size());
      (void)madvise(const_cast<uint8_t*>(mapped_.data()) + begin, end - begin, MADV_DONTNEED);
    }
    AdviseDrop(fd_, offset, bytes);
  }

  void StartWriteBack(uint64_t offset, uint64_t bytes) override {
    (void)sync_file_range(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes), SYNC_FILE_RANGE_WRITE);
  }

  absl::Status FinishWriteBack(uint64_t offset, uint64_t bytes) override {
    constexpr unsigned kAll = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (sync_file_range(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes), kAll) != 0) {
      // The call takes the device's error from a later fsync, so it must not be lost here. File systems that lack the
      // call write back by themselves.
      if (errno == EIO || errno == ENOSPC || errno == EDQUOT) return IoError(errno, "write", path_);
      return absl::OkStatus();
    }
    AdviseDrop(fd_, offset, bytes);
    return absl::OkStatus();
  }

  absl::StatusOr<bool> IsLocked() const override {
    // A shared lock, given back at once: several may ask at the same time, and it needs no right to write.
    while (flock(fd_, LOCK_SH | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno == EWOULDBLOCK) return true;
      return IoError(errno, "lock", path_);
    }
    (void)flock(fd_, LOCK_UN);
    return false;
  }

  absl::Status Lock() override {
    while (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno == EWOULDBLOCK) {
        return absl::AbortedError(absl::StrCat("another process is writing ", path_, "; wait for it or stop it"));
      }
      return IoError(errno, "lock", path_);
    }
    // Between our open and our lock the holder may have finished and removed or renamed the file.
    struct stat mine, now;
    if (fstat(fd_, &mine) != 0) return IoError(errno, "examine", path_);
    if (stat(path_.c_str(), &now) != 0 || mine.st_ino != now.st_ino || mine.st_dev != now.st_dev) {
      return absl::AbortedError(absl::StrCat("another process has just finished with ", path_, "; try again"));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status AllocateWithoutSupport(uint64_t bytes) {
    struct stat info;
    struct statvfs space;
    if (fstat(fd_, &info) != 0 || fstatvfs(fd_, &space) != 0) return IoError(errno, "examine", path_);
    const uint64_t have = static_cast<uint64_t>(info.st_blocks) * 512;
    const uint64_t need = bytes > have ? bytes - have : 0;
    const uint64_t unit = space.f_frsize != 0 ? space.f_frsize : 512;
    if (space.f_bavail < need / unit) {
      return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes, " bytes for ", path_, ": ",
                                                       static_cast<uint64_t>(space.f_bavail) * unit, " are free"));
    }
    return Truncate(bytes);
  }

  // As pread.
  int64_t ReadSome(uint8_t* data, uint64_t count, uint64_t at) const {
    const uint64_t whole = count / kDirectAlign * kDirectAlign;
    const bool aligned = whole > 0 && at % kDirectAlign == 0 && reinterpret_cast<uintptr_t>(data) % kDirectAlign == 0;
    if (direct_fd_ >= 0 && aligned) {
      const int64_t n = pread(direct_fd_, data, whole, static_cast<off_t>(at));
      // A file system that opens a file for direct reads may still refuse one.
      if (n >= 0 || errno != EINVAL) return n;
    }
    const int64_t n = pread(fd_, data, count, static_cast<off_t>(at));
    if (keeps_cache_clean_ && n > 0) AdviseDrop(fd_, at, static_cast<uint64_t>(n));
    return n;
  }

  int fd_;
  int direct_fd_ = -1;
  bool keeps_cache_clean_ = false;
  std::string path_;
  absl::Span<const uint8_t> mapped_;
};

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

absl::Status SyncFolder(const std::string& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return IoError(errno, "open folder", folder);
  const int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  // Some network file systems cannot sync a folder; they make a rename durable themselves.
  if (error != 0 && error != EINVAL && error != ENOTSUP) return IoError(error, "sync folder", folder);
  return absl::OkStatus();
}

class PosixFiles : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<File>> OpenForWrite(const std::string& path) override {
    const bool existed = Exists(path);
    KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<File> file, Open(path, O_RDWR | O_CREAT | O_CLOEXEC, "create"));
    if (!existed) KOMPAKT_RETURN_IF_ERROR(SyncFolderOf(path));
    return file;
  }

  absl::StatusOr<std::unique_ptr<File>> OpenForRead(const std::string& path) override {
    // Without O_NONBLOCK the open of a named pipe would wait for a writer.
    return Open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, "open");
  }

  absl::StatusOr<std::unique_ptr<File>> OpenForDirectRead(const std::string& path) override {
    KOMPAKT_RETURN_IF_ERROR(OpenForRead(path).status());
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return IoError(errno, "open", path);
    const int direct_fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT);
    auto file = std::make_unique<PosixFile>(fd, direct_fd, path);
    struct stat info, direct_info;
    if (fstat(fd, &info) != 0) return IoError(errno, "examine", path);
    if (direct_fd >= 0 && fstat(direct_fd, &direct_info) != 0) return IoError(errno, "examine", path);
    if (direct_fd >= 0 && (info.st_ino != direct_info.st_ino || info.st_dev != direct_info.st_dev)) {
      return absl::UnavailableError(absl::StrCat(path, ": was replaced while it was opened"));
    }
    return std::unique_ptr<File>(std::move(file));
  }

  bool Exists(const std::string& path) override {
    struct stat info;
    return lstat(path.c_str(), &info) == 0;
  }

  std::vector<std::string> ListPrefix(const std::string& prefix) override {
    const size_t slash = prefix.rfind('/');
    const std::string folder = slash == std::string::npos ? "" : prefix.substr(0, slash + 1);
    std::vector<std::string> paths;
    DIR* const entries = opendir(FolderOf(prefix).c_str());
    if (entries == nullptr) return paths;
    while (const dirent* entry = readdir(entries)) {
      std::string path = folder + entry->d_name;
      if (path.compare(0, prefix.size(), prefix) == 0) paths.push_back(std::move(path));
    }
    closedir(entries);
    std::sort(paths.begin(), paths.end());
    return paths;
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (rename(from.c_str(), to.c_str()) != 0) return IoError(errno, absl::StrCat("rename ", from, " to"), to);
    return SyncFolderOf(to);
  }

  absl::Status Remove(const std::string& path) override {
    if (unlink(path.c_str()) != 0) return IoError(errno, "remove", path);
    return absl::OkStatus();
  }

  absl::Status SyncFolderOf(const std::string& path) override { return SyncFolder(FolderOf(path)); }

  absl::StatusOr<uint64_t> FreeBytes(const std::string& path) override {
    struct statvfs space;
    const std::string folder = FolderOf(path);
    if (statvfs(folder.c_str(), &space) != 0) return IoError(errno, "examine folder", folder);
    if (access(folder.c_str(), W_OK) != 0) return IoError(errno, "write to folder", folder);
    return static_cast<uint64_t>(space.f_bavail) * (space.f_frsize != 0 ? space.f_frsize : 512);
  }

  uint64_t MostFileBytes(const std::string& path) override {
    const std::string folder = FolderOf(path);
    uint64_t most = std::numeric_limits<uint64_t>::max();
    // pathconf answers what the kernel's interface could take; FAT says less than that only when it is written to.
    struct statfs info;
    if (statfs(folder.c_str(), &info) == 0 && info.f_type == MSDOS_SUPER_MAGIC) {
      most = std::numeric_limits<uint32_t>::max();
    } else if (const long bits = pathconf(folder.c_str(), _PC_FILESIZEBITS); bits > 1 && bits < 64) {
      most = (uint64_t{1} << (bits - 1)) - 1;
    }
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
      most = std::min<uint64_t>(most, limit.rlim_cur);
    }
    return most;
  }

 private:
  static absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path, int flags, absl::string_view what) {
    const int fd = open(path.c_str(), flags, 0666);
    if (fd < 0) return IoError(errno, what, path);
    auto file = std::make_unique<PosixFile>(fd, path);
    struct stat info;
    if (fstat(fd, &info) != 0) return IoError(errno, "examine", path);
    if (!S_ISREG(info.st_mode)) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, ": expected a file, found ", S_ISDIR(info.st_mode) ? "a folder" : "a device or pipe"));
    }
    return std::unique_ptr<File>(std::move(file));
  }
};

}  // namespace

absl::Status WriteFully(const std::function<int64_t(const uint8_t*, uint64_t, uint64_t)>& write, uint64_t offset,
                        absl::Span<const uint8_t> bytes, const std::string& path) {
  if (offset > kMaxOffset || bytes.size() > kMaxOffset - offset) return IoError(EFBIG, "write", path);
  uint64_t done = 0;
  while (done < bytes.size()) {
    const uint64_t count = std::min<uint64_t>(bytes.size() - done, kMaxTransfer);
    const int64_t n = write(bytes.data() + done, count, offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoError(errno, "write", path);
    // A regular file never accepts zero bytes; going on would never end.
    if (n == 0) return IoError(EIO, "write", path);
    done += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status ReplaceFile(FileSystem& fs, const std::string& path, const std::string& text) {
  const std::string partial = path + ".partial";
  KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<File> file, fs.OpenForWrite(partial));
  KOMPAKT_RETURN_IF_ERROR(file->Truncate(0));
  absl::Status written =
      file->WriteAt(0, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  if (written.ok()) written = file->Sync();
  file.reset();
  if (written.ok()) return fs.Rename(partial, path);
  fs.Remove(partial).IgnoreError();
  return written;
}

std::string FileState(const struct stat& info) {
  return absl::StrCat("bytes ", info.st_size, " modified ", info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, " changed ",
                      info.st_ctim.tv_sec, ".", info.st_ctim.tv_nsec, " inode ", info.st_ino, " device ", info.st_dev);
}

absl::StatusOr<std::string> FileState(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return IoError(errno, "examine", path);
  return FileState(info);
}

void AdviseWillNeed(int fd, uint64_t offset, uint64_t bytes) {
  // Linux reads no more per call than the read-ahead of the device, 128 KiB where nobody set it, and drops the rest of
  // the advice.
  constexpr uint64_t kPerCall = 128 << 10;
  for (uint64_t done = 0; done < bytes; done += kPerCall) {
    (void)posix_fadvise(fd, static_cast<off_t>(offset + done), static_cast<off_t>(std::min(kPerCall, bytes - done)),
                        POSIX_FADV_WILLNEED);
  }
}

void AdviseDrop(int fd, uint64_t offset, uint64_t bytes) {
  (void)posix_fadvise(fd, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
}

FileSystem& PosixFileSystem() {
  static PosixFiles files;
  return files;
}

}  // namespace kompakt
