#include "tests/runtime/device_models.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "converters/checkpoint.h"
#include "kernels/device.h"
#include "runtime/exact_store.h"
#include "tests/converters/status_matchers.h"
#include "tests/runtime/golden_file.h"

namespace kompakt {

double ErrorOfRange(absl::Span<const float> got, absl::Span<const float> want, double range) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::fabs(static_cast<double>(got[i]) - static_cast<double>(want[i])) / range;
    if (!(error <= worst)) worst = error;
    if (std::isnan(worst)) return worst;
  }
  return worst;
}

double RangeOf(absl::Span<const float> values) {
  const auto [least, largest] = std::minmax_element(values.begin(), values.end());
  return static_cast<double>(*largest) - static_cast<double>(*least);
}

void ExpectClose(absl::Span<const float> got, absl::Span<const float> want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  const double range = RangeOf(want);
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::fabs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    ASSERT_LE(error, kOfRange * range) << what << ": value " << i << " is " << got[i] << ", expected " << want[i];
  }
  testing::Test::RecordProperty(what, std::to_string(ErrorOfRange(got, want, range)));
}

std::shared_ptr<const WeightStore> WeightsOf(const std::string& checkpoint) {
  const auto source = *OpenCheckpoint(CheckpointFolder(checkpoint));
  return *LoadExactWeights(*source, checkpoint, 2);
}

absl::StatusOr<std::vector<float>> DamagedWeights::Vector(const TensorInfo& tensor) const {
  auto values = base_->Vector(tensor);
  if (values.ok() && tensor.role == role_ && tensor.layer == layer_) (*values)[1] = NAN;
  return values;
}

ModelOnDevice LoadOnDevice(const std::string& device, std::shared_ptr<const WeightStore> weights,
                           ActivationPolicy act) {
  ModelOnDevice loaded;
  loaded.target = std::make_shared<DeviceTarget>();
  loaded.target->device = *OpenDevice(device);
  ModelOptions options;
  options.threads = 2;
  options.act = act;
  options.device = loaded.target;
  loaded.model = *Model::Load(std::move(weights), options);
  return loaded;
}

std::vector<float> Logits(Session& session, absl::Span<const int32_t> ids) {
  const auto output = session.Forward(ids, Session::Logits::kAll);
  EXPECT_THAT(output, IsOk());
  return output.ok() ? output->logits : std::vector<float>();
}

std::vector<int32_t> Greedy(Session& session, absl::Span<const int32_t> prompt, size_t count) {
  std::vector<int32_t> text;
  absl::StatusOr<int32_t> next = session.ForwardGreedy(prompt, session.model().arch().vocab_size());
  while (next.ok() && text.size() < count) {
    text.push_back(*next);
    if (text.size() < count) next = session.ForwardGreedy({*next}, session.model().arch().vocab_size());
  }
  EXPECT_THAT(next, IsOk());
  return text;
}

}  // namespace kompakt
