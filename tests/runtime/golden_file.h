// Goldens (tests/data/README.md) and models to compare with them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/model.h"

namespace kompakt {

// The values of a tensor of a safetensors file, F32 or I64; the test fails when there is none.
std::vector<float> GoldenFloats(const std::string& path, const std::string& name);
std::vector<int32_t> GoldenInts(const std::string& path, const std::string& name);

std::string CheckpointFolder(const std::string& name);

// An upstream checkpoint of tests/data in its exact form; each is read once. Null, and a failed test, on error.
std::shared_ptr<const Model> ExactModel(const std::string& checkpoint, const KernelSet* kernels, int threads = 2,
                                        CacheFormat cache_format = CacheFormat::kF32);

}  // namespace kompakt
