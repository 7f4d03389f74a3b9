#include "kernels/probe.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "format/status.h"

namespace kompakt {
namespace {

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Of one task: long enough that handing tasks out costs nothing, short enough that threads end together.
constexpr uint64_t kPieceBytes = uint64_t{2} << 20;
constexpr uint64_t kLeastBeyondCaches = uint64_t{288} << 20;
constexpr uint64_t kMostBeyondCaches = uint64_t{1} << 30;
constexpr uint64_t kHugePage = uint64_t{2} << 20;

// The compiler must not see that nobody looks at what was read.
void Use(uint64_t value) { asm volatile("" : : "r"(value) : "memory"); }

uint64_t ReadWords(const uint8_t* p, uint64_t n) {
  uint64_t sum[8] = {};
  for (uint64_t i = 0; i < n; i += 64) {
    __builtin_prefetch(p + i + 2048);
    uint64_t words[8];
    std::memcpy(words, p + i, sizeof(words));
    for (int j = 0; j < 8; ++j) sum[j] += words[j];
  }
  return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

// As every machine has them: vectors of 16 bytes, multiply and add.
uint64_t F32Products(int64_t rounds, uint64_t* products) {
  typedef float F4 __attribute__((vector_size(16)));
  F4 sums[8] = {};
  F4 a = {1, 2, 3, 4}, b = {0.5f, 0.25f, 0.125f, 1};
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+m"(a), "+m"(b));
    for (F4& sum : sums) sum += a * b;
  }
  *products += static_cast<uint64_t>(rounds) * 8 * 4 * 2;
  float sum = 0;
  for (const F4& s : sums) sum += s[0] + s[1] + s[2] + s[3];
  return static_cast<uint64_t>(sum);
}

}  // namespace

namespace probe {

const Loops& LoopsOfMachine() {
  static const Loops kLoops = [] {
    Loops loops{};
#if defined(__x86_64__)
    loops = X86Loops();
#elif defined(__aarch64__)
    loops = ArmLoops();
#endif
    if (loops.read == nullptr) loops.read = ReadWords;
    auto*& f32 = loops.products[static_cast<size_t>(ProductKind::kF32)];
    if (f32 == nullptr) f32 = F32Products;
    return loops;
  }();
  return kLoops;
}

}  // namespace probe

void AdviseHugePages(absl::Span<uint8_t> memory) {
#if defined(MADV_HUGEPAGE)
  const auto begin = (reinterpret_cast<uintptr_t>(memory.data()) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = reinterpret_cast<uintptr_t>(memory.data() + memory.size()) / kHugePage * kHugePage;
  // Where it is refused, reading takes a little longer.
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

uint64_t BeyondCachesBytes() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
  const long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const uint64_t wanted = l3 > 0 ? 4 * static_cast<uint64_t>(l3) : 0;
#else
  const uint64_t wanted = 0;
#endif
  return std::clamp(wanted, kLeastBeyondCaches, kMostBeyondCaches);
}

absl::StatusOr<ReadProbe> ReadProbe::Create(KernelContext& context) {
  ReadProbe probe;
  const uint64_t bytes = BeyondCachesBytes() / kPieceBytes * kPieceBytes;
  KOMPAKT_ASSIGN_OR_RETURN(probe.array_, AlignedBuffer::Create(bytes, "read probe"));
  AdviseHugePages({probe.array_.data(), bytes});
  context.RunPieces(static_cast<int64_t>(bytes), static_cast<int64_t>(kPieceBytes),
                    [&](int64_t begin, int64_t end, int /*thread*/) {
                      std::memset(probe.array_.data() + begin, 1, static_cast<size_t>(end - begin));
                    });
  return probe;
}

double ReadProbe::Run(KernelContext& context, uint64_t bytes) {
  const auto pieces = static_cast<int64_t>(array_.bytes() / kPieceBytes);
  const auto count = static_cast<int64_t>(std::max(bytes / kPieceBytes, uint64_t{1}));
  const int64_t first = next_piece_;
  const auto read = probe::LoopsOfMachine().read;
  const auto start = Clock::now();
  context.Run(count, [&](int64_t task, int /*thread*/) {
    Use(read(array_.data() + static_cast<uint64_t>((first + task) % pieces) * kPieceBytes, kPieceBytes));
  });
  const double seconds = SecondsSince(start);
  next_piece_ = (first + count) % pieces;
  return static_cast<double>(count) * static_cast<double>(kPieceBytes) / seconds;
}

double ProductsPerSecond(ProductKind kind, KernelContext& context, double seconds) {
  const auto loop = probe::LoopsOfMachine().products[static_cast<size_t>(kind)];
  if (loop == nullptr) return 0;
  // Some ten microseconds a task.
  constexpr int64_t kRounds = 4096;
  uint64_t products = 0;
  double elapsed = 0;
  const auto start = Clock::now();
  do {
    std::atomic<uint64_t> sum{0};
    context.Run(int64_t{16} * context.threads(), [&](int64_t /*task*/, int /*thread*/) {
      uint64_t own = 0;
      Use(loop(kRounds, &own));
      sum.fetch_add(own, std::memory_order_relaxed);
    });
    products += sum.load();
    elapsed = SecondsSince(start);
  } while (elapsed < seconds);
  return static_cast<double>(products) / elapsed;
}

ProductKind BestProductKind() {
  for (const ProductKind kind : {ProductKind::kVnni512, ProductKind::kVnni256, ProductKind::kI8mm,
                                 ProductKind::kDotprod, ProductKind::kMaddubs256, ProductKind::kNeon}) {
    if (probe::LoopsOfMachine().products[static_cast<size_t>(kind)] != nullptr) return kind;
  }
  return ProductKind::kF32;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wswitch"
absl::string_view NameOf(ProductKind kind) {
  switch (kind) {
    case ProductKind::kF32:
      return "f32 multiply-add";
    case ProductKind::kMaddubs256:
      return "vpmaddubsw";
    case ProductKind::kVnni256:
      return "vpdpbusd 256";
    case ProductKind::kVnni512:
      return "vpdpbusd 512";
    case ProductKind::kNeon:
      return "smull and sadalp";
    case ProductKind::kDotprod:
      return "sdot";
    case ProductKind::kI8mm:
      return "smmla";
  }
  return "";
}
#pragma GCC diagnostic pop

}  // namespace kompakt
