// Runs a fuzz target without a fuzzer: every file of its corpus, then deterministic mutations of them.
//
//   NAME_replay [--mutations N] [--seed S] CORPUS_FOLDER KEPT_INPUT
//
// KEPT_INPUT always holds the bytes of the input that is running, so that after a crash, a sanitizer report or a hang
// it is the file that reproduces it (give its folder as CORPUS_FOLDER, or the file to the libFuzzer build of the
// target). It is removed when all went well. The same corpus, seed and N run the same inputs on every machine.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <vector>

#include "kernels/sanitizers.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

// One input may take this long, sanitizers included; a hang is a failure.
constexpr unsigned kSecondsPerInput = 60;
constexpr size_t kMaxInputBytes = size_t{1} << 20;

// splitmix64 (Steele, Lea, Flood 2014): its sequence is fixed, unlike that of the standard library's distributions.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  size_t Below(size_t n) { return static_cast<size_t>(Next() % n); }

 private:
  uint64_t state_;
};

void OverwriteWithExtremeInteger(Random& random, Bytes& input) {
  constexpr uint64_t kExtremes[] = {0,
                                    1,
                                    0x7f,
                                    0x80,
                                    0xff,
                                    0x7fff,
                                    0x8000,
                                    0xffff,
                                    0x7fffffff,
                                    0x80000000,
                                    0xffffffff,
                                    uint64_t{1} << 62,
                                    ~uint64_t{0} >> 1,
                                    uint64_t{1} << 63,
                                    ~uint64_t{0}};
  const uint64_t value = kExtremes[random.Below(std::size(kExtremes))];
  const size_t width = std::min(size_t{1} << random.Below(4), input.size());
  const size_t at = random.Below(input.size() - width + 1);
  for (size_t i = 0; i < width; ++i) input[at + i] = static_cast<uint8_t>(value >> (8 * i));
}

void ReplaceDigits(Random& random, Bytes& input) {
  constexpr const char* kNumbers[] = {"0", "-1", "1e309", "4294967296", "9223372036854775807", "18446744073709551616"};
  const auto is_digit = [](uint8_t byte) { return byte >= '0' && byte <= '9'; };
  const auto from = input.begin() + static_cast<ptrdiff_t>(random.Below(input.size()));
  const auto begin = std::find_if(from, input.end(), is_digit);
  const auto end = std::find_if_not(begin, input.end(), is_digit);
  if (begin == input.end()) return;
  const char* number = kNumbers[random.Below(std::size(kNumbers))];
  const auto at = input.erase(begin, end);
  input.insert(at, number, number + std::strlen(number));
}

void CopyPieceOf(const Bytes& other, Random& random, Bytes& input) {
  if (other.empty()) return;
  const size_t from = random.Below(other.size());
  const size_t count = 1 + random.Below(std::min<size_t>(other.size() - from, 64));
  const size_t at = random.Below(input.size() + 1);
  const auto piece = other.begin() + static_cast<ptrdiff_t>(from);
  const auto piece_end = piece + static_cast<ptrdiff_t>(count);
  input.insert(input.begin() + static_cast<ptrdiff_t>(at), piece, piece_end);
}

void ErasePiece(Random& random, Bytes& input) {
  const size_t from = random.Below(input.size());
  const size_t count = 1 + random.Below(std::min<size_t>(input.size() - from, 64));
  const auto begin = input.begin() + static_cast<ptrdiff_t>(from);
  input.erase(begin, begin + static_cast<ptrdiff_t>(count));
}

Bytes Mutate(const std::vector<Bytes>& corpus, Random& random) {
  Bytes input = corpus[random.Below(corpus.size())];
  for (size_t step = 1 + random.Below(4); step > 0; --step) {
    if (input.empty()) input.push_back(static_cast<uint8_t>(random.Next()));
    switch (random.Below(7)) {
      case 0:
        input[random.Below(input.size())] ^= static_cast<uint8_t>(1u << random.Below(8));
        break;
      case 1:
        input[random.Below(input.size())] = static_cast<uint8_t>(random.Next());
        break;
      case 2:
        OverwriteWithExtremeInteger(random, input);
        break;
      case 3:
        ReplaceDigits(random, input);
        break;
      case 4:
        input.resize(random.Below(input.size() + 1));
        break;
      case 5:
        ErasePiece(random, input);
        break;
      default:
        CopyPieceOf(corpus[random.Below(corpus.size())], random, input);
        break;
    }
  }
  if (input.size() > kMaxInputBytes) input.resize(kMaxInputBytes);
  return input;
}

class KeptInput {
 public:
  explicit KeptInput(const std::string& path)
      : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
    if (fd_ < 0) {
      std::fprintf(stderr, "cannot open %s: %s\n", path.c_str(), std::strerror(errno));
      std::exit(2);
    }
  }
  void Run(const Bytes& input) {
    if (::ftruncate(fd_, 0) != 0 ||
        ::pwrite(fd_, input.data(), input.size(), 0) != static_cast<ssize_t>(input.size())) {
      std::fprintf(stderr, "cannot write %s: %s\n", path_.c_str(), std::strerror(errno));
      std::exit(2);
    }
    ::alarm(kSecondsPerInput);
    // A copy of its own size: reading one byte past it is an error that the address sanitizer sees.
    const Bytes exact(input.begin(), input.end());
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
    ::alarm(0);
  }
  void Remove() { ::unlink(path_.c_str()); }

 private:
  std::string path_;
  int fd_;
};

std::vector<Bytes> ReadCorpus(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.is_regular_file()) paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> corpus;
  for (const std::string& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return corpus;
}

void LimitMemory() {
  if (kompakt::kSanitized) return;  // shadow memory alone has more
  // Far above what a target needs, far below what a trusted size field could ask for.
  constexpr rlim_t kMaxAddressSpace = rlim_t{8} << 30;
  const rlimit limit{kMaxAddressSpace, kMaxAddressSpace};
  ::setrlimit(RLIMIT_AS, &limit);
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t mutations = 2000;
  uint64_t seed = 1;
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--mutations" && i + 1 < argc) {
      mutations = std::strtoull(argv[++i], nullptr, 10);
    } else if (arg == "--seed" && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      paths.push_back(arg);
    }
  }
  if (paths.size() != 2) {
    std::fprintf(stderr, "usage: %s [--mutations N] [--seed S] CORPUS_FOLDER KEPT_INPUT\n", argv[0]);
    return 2;
  }
  const std::vector<Bytes> corpus = ReadCorpus(paths[0]);
  if (corpus.empty()) {
    std::fprintf(stderr, "%s: no corpus there; a fuzz target needs at least one input\n", paths[0].c_str());
    return 2;
  }
  LimitMemory();
  std::printf("%zu inputs of %s and %llu mutations; should one crash, it is kept in %s\n", corpus.size(),
              paths[0].c_str(), static_cast<unsigned long long>(mutations), paths[1].c_str());
  std::fflush(stdout);
  KeptInput kept(paths[1]);
  kept.Run({});
  for (const Bytes& input : corpus) kept.Run(input);
  Random random(seed);
  for (uint64_t i = 0; i < mutations; ++i) kept.Run(Mutate(corpus, random));
  kept.Remove();
  return 0;
}
