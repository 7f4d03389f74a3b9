// Models of tests/data on a device, and what sessions of them are asked.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "runtime/device_target.h"
#include "runtime/model.h"
#include "runtime/session.h"

namespace kompakt {

// The device keeps latents, queries, keys and values in BF16: 8 bits of mantissa in every layer, where the CPU has 24.
// Worst of the goldens on the simulator: 0.006 of the range of the logits.
inline constexpr double kOfRange = 0.02;

// The largest difference, in ranges of `want`; NaN where there is one.
double ErrorOfRange(absl::Span<const float> got, absl::Span<const float> want, double range);
double RangeOf(absl::Span<const float> values);
// No value is further from `want` than kOfRange of its range. The worst is a property of the test.
void ExpectClose(absl::Span<const float> got, absl::Span<const float> want, const std::string& what);

// An upstream checkpoint of tests/data in its exact form.
std::shared_ptr<const WeightStore> WeightsOf(const std::string& checkpoint);

// The same with one value of one vector that is none.
class DamagedWeights : public WeightStore {
 public:
  DamagedWeights(std::shared_ptr<const WeightStore> base, TensorRole role, int32_t layer)
      : base_(std::move(base)), role_(role), layer_(layer) {}
  const std::string& origin() const override { return base_->origin(); }
  const ModelSchema& schema() const override { return base_->schema(); }
  absl::StatusOr<MatrixView> Matrix(const TensorInfo& tensor) const override { return base_->Matrix(tensor); }
  absl::StatusOr<std::vector<float>> Vector(const TensorInfo& tensor) const override;

 private:
  std::shared_ptr<const WeightStore> base_;
  TensorRole role_;
  int32_t layer_;
};

struct ModelOnDevice {
  std::shared_ptr<DeviceTarget> target;
  std::shared_ptr<const Model> model;
};
ModelOnDevice LoadOnDevice(const std::string& device, std::shared_ptr<const WeightStore> weights,
                           ActivationPolicy act = ActivationPolicy());

// Of every token.
std::vector<float> Logits(Session& session, absl::Span<const int32_t> ids);

// `count` tokens after `prompt`, one by one, by the session's own choice of the likeliest.
std::vector<int32_t> Greedy(Session& session, absl::Span<const int32_t> prompt, size_t count);

}  // namespace kompakt
