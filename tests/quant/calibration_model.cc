#include "tests/quant/calibration_model.h"

#include <gtest/gtest.h>

#include "runtime/exact_store.h"
#include "tests/converters/status_matchers.h"
#include "tests/fixtures/synthetic_source.h"

namespace kompakt {

std::shared_ptr<const Model> RandomModel(const ArchSpec& arch, int threads) {
  SyntheticOptions options;
  options.arch = arch;
  options.assets = SmallAssets();
  const SyntheticSource source(options);
  const auto weights = LoadExactWeights(source, "random", 2);
  EXPECT_THAT(weights, IsOk());
  const auto model = Model::Load(*weights, {.threads = threads, .kernels = *KernelSetByName("reference")});
  EXPECT_THAT(model, IsOk());
  return *model;
}

std::vector<int32_t> SomeIds(const ArchSpec& arch, int64_t n) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>((i * 37 + i * i * 5 + 3) % arch.vocab_size()));
  return ids;
}

CalibrationReport CalibrateInto(const std::string& path, const Model& model, const std::vector<int32_t>& ids,
                                int64_t context, bool matrices) {
  const auto chunks = CalibrationChunks::Create(ids, 1, context, 0);
  EXPECT_THAT(chunks, IsOk());
  CalibrationHeader header;
  header.model_name = "random";
  header.text_name = "ids";
  header.model = CalibrationModel::Of(model.arch(), SmallAssets());
  header.tokens = chunks->tokens();
  header.context = context;
  const auto writer =
      CalibrationWriter::Create(PosixFileSystem(), path, header, CalibrationRows(model.weights().schema(), matrices));
  EXPECT_THAT(writer, IsOk());
  const auto report = Calibrate(model, *chunks, **writer, nullptr);
  EXPECT_THAT(report, IsOk());
  return *report;
}

std::shared_ptr<const CalibrationFile> OpenedCalibration(const std::string& path) {
  const auto file = CalibrationFile::Open(PosixFileSystem(), path);
  EXPECT_THAT(file, IsOk());
  return *file;
}

}  // namespace kompakt
