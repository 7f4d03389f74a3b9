// Amounts of memory and disk on the command line: --ram 2GiB, --volume-size 40GB, --fit 8GiB.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace kompakt {

// "1048576", "512M", "2GiB", "1.5 GB", "40gb": a number, then nothing or B for bytes, K M G T or KiB MiB GiB TiB for
// powers of 1024, kB MB GB TB for powers of 1000; letter case does not matter. Rounded down to a byte. kInvalidArgument
// naming `flag` for anything else, for zero and below, and for 2^63 and above.
absl::StatusOr<uint64_t> ParseByteSize(const std::string& flag, const std::string& text);

}  // namespace kompakt
