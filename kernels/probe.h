// What this machine can do at most, measured in the same minute as what is compared with it: bytes per second read from
// memory, and products per second of the instructions that matrices are multiplied with.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/kernel_set.h"
#include "kernels/workspace.h"

namespace kompakt {

// Reads an array that no cache holds, in order, with the widest loads of the machine, each line asked for some lines
// ahead.
class ReadProbe {
 public:
  // Larger than 256 MiB and than four times the last cache, on huge pages where the system allows, each piece touched
  // first by one of the context's threads. kResourceExhausted.
  static absl::StatusOr<ReadProbe> Create(KernelContext& context);

  // Reads the next `bytes` of the array (in pieces, cyclically) on all threads of the context. Bytes per second.
  double Run(KernelContext& context, uint64_t bytes);

  uint64_t array_bytes() const { return array_.bytes(); }

 private:
  AlignedBuffer array_;
  int64_t next_piece_ = 0;
};

// Products per second (a multiplication and an addition count as two, as in GOPS) of the instruction `kind` names, all
// operands in registers, on all threads of the context for about `seconds`. 0 where this machine has no such
// instruction.
double ProductsPerSecond(ProductKind kind, KernelContext& context, double seconds);

// The fastest integer instruction of this machine; kF32 where it has none.
ProductKind BestProductKind();

// The instruction's name, for tables: "vpdpbusd 512".
absl::string_view NameOf(ProductKind kind);

// Asks for huge pages; does nothing where the system has none to give.
void AdviseHugePages(absl::Span<uint8_t> memory);

// How much memory lies beyond all caches: what a measurement of memory has to spread over.
uint64_t BeyondCachesBytes();

namespace probe {
// One instruction set's inner loops. Each is null where the build has none.
struct Loops {
  // The sum of all words: n bytes from p on, a multiple of 512.
  uint64_t (*read)(const uint8_t* p, uint64_t n);
  // Runs `rounds` of independent products in registers; adds how many products that were to *products. Returns
  // something that depends on all of them.
  uint64_t (*products[kProductKinds])(int64_t rounds, uint64_t* products);
};
// The loops that this machine runs.
const Loops& LoopsOfMachine();
#if defined(__x86_64__)
Loops X86Loops();
#endif
#if defined(__aarch64__)
Loops ArmLoops();
#endif
}  // namespace probe

}  // namespace kompakt
