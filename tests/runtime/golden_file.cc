#include "tests/runtime/golden_file.h"

#include <gtest/gtest.h>

#include <map>

#include "converters/checkpoint.h"
#include "converters/safetensors.h"
#include "runtime/exact_store.h"

namespace kompakt {
namespace {

template <typename Stored>
std::vector<Stored> Values(const std::string& path, const std::string& name) {
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  if (!file.ok()) {
    ADD_FAILURE() << file.status();
    return {};
  }
  const SafetensorsEntry* const entry = file->Find(name);
  if (entry == nullptr) {
    ADD_FAILURE() << path << " has no tensor " << name;
    return {};
  }
  std::vector<Stored> values(entry->bytes() / sizeof(Stored));
  const absl::Status read =
      file->Read(*entry, 0, absl::MakeSpan(reinterpret_cast<uint8_t*>(values.data()), entry->bytes()));
  EXPECT_TRUE(read.ok()) << read;
  return values;
}

}  // namespace

std::vector<float> GoldenFloats(const std::string& path, const std::string& name) { return Values<float>(path, name); }

std::vector<int32_t> GoldenInts(const std::string& path, const std::string& name) {
  std::vector<int32_t> values;
  for (const int64_t value : Values<int64_t>(path, name)) values.push_back(static_cast<int32_t>(value));
  return values;
}

std::string CheckpointFolder(const std::string& name) {
  return std::string(KOMPAKT_TEST_DATA) + "/checkpoints/" + name;
}

std::shared_ptr<const Model> ExactModel(const std::string& checkpoint, const KernelSet* kernels, int threads,
                                        CacheFormat cache_format) {
  static std::map<std::string, std::shared_ptr<const WeightStore>> stores;
  std::shared_ptr<const WeightStore>& store = stores[checkpoint];
  if (store == nullptr) {
    const auto source = OpenCheckpoint(CheckpointFolder(checkpoint));
    if (!source.ok()) {
      ADD_FAILURE() << source.status();
      return nullptr;
    }
    absl::StatusOr<std::shared_ptr<const WeightStore>> weights = LoadExactWeights(**source, checkpoint, 2);
    if (!weights.ok()) {
      ADD_FAILURE() << weights.status();
      return nullptr;
    }
    store = *weights;
  }
  absl::StatusOr<std::shared_ptr<const Model>> model =
      Model::Load(store, {.threads = threads, .kernels = kernels, .cache_format = cache_format});
  if (!model.ok()) {
    ADD_FAILURE() << model.status();
    return nullptr;
  }
  return *model;
}

}  // namespace kompakt
