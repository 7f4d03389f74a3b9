// What importance and error feedback gain on activations of a trained model: for the matrices whose inputs a forward
// pass shows (query and latent projections, head), the relative squared error of their outputs on tokens that were not
// calibrated with.
//
//   feedback_bench CHECKPOINT TEXT [TOKENS [FORMAT]]
//
// Half of the tokens make H, damped by a hundredth of its mean diagonal, the other half measures. Columns: the plain
// search; weighted by the diagonal; with feedback; with feedback in activation order (which only the inner channels of
// an FFN are free to have: here it says what the order is worth).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "converters/checkpoint.h"
#include "format/status.h"
#include "quant/error_feedback.h"
#include "runtime/session.h"
#include "runtime/tokenizer.h"
#include "tools/model_input.h"

namespace kompakt {
namespace {

constexpr int64_t kContext = 512;
constexpr int kWays = 4;

// Row-major [n, cols].
struct Inputs {
  int64_t cols = 0;
  std::vector<float> calibration, test;
};

std::vector<float> Moments(const std::vector<float>& x, int64_t cols, double damping) {
  const auto n = static_cast<size_t>(cols);
  const size_t samples = x.size() / n;
  std::vector<double> sums(n * n);
  for (size_t s = 0; s < samples; ++s) {
    for (size_t i = 0; i < n; ++i) {
      const auto value = static_cast<double>(x[s * n + i]);
      for (size_t j = 0; j <= i; ++j) sums[i * n + j] += value * static_cast<double>(x[s * n + j]);
    }
  }
  double mean = 0;
  for (size_t i = 0; i < n; ++i) mean += sums[i * n + i] / static_cast<double>(n);
  std::vector<float> h(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      const double sum = sums[std::max(i, j) * n + std::min(i, j)] + (i == j ? damping * mean : 0);
      h[i * n + j] = static_cast<float>(sum / static_cast<double>(samples));
    }
  }
  return h;
}

// The upper triangle by rows.
std::vector<float> TriangleOf(const std::vector<float>& h, int64_t cols) {
  std::vector<float> triangle;
  for (int64_t i = 0; i < cols; ++i) {
    triangle.insert(triangle.end(), h.begin() + i * cols + i, h.begin() + (i + 1) * cols);
  }
  return triangle;
}

double Quadratic(const std::vector<float>& h, const float* e, int64_t cols) {
  double sum = 0;
  for (int64_t i = 0; i < cols; ++i) {
    double row = 0;
    for (int64_t j = 0; j < cols; ++j) row += static_cast<double>(h[static_cast<size_t>(i * cols + j)] * e[j]);
    sum += row * static_cast<double>(e[i]);
  }
  return sum;
}

struct Sums {
  double errors[kWays] = {};
  double outputs = 0;
};

absl::Status Measure(FormatId id, const std::vector<float>& weights, const Inputs& x, Sums* sums) {
  const int64_t cols = x.cols;
  const std::vector<float> h = Moments(x.calibration, cols, 0.01);
  const std::vector<float> test = Moments(x.test, cols, 0);
  const std::vector<float> triangle = TriangleOf(h, cols);
  std::vector<float> diagonal;
  for (int64_t c = 0; c < cols; ++c) diagonal.push_back(h[static_cast<size_t>(c * cols + c)]);
  const std::vector<int32_t> order = ActivationOrder(diagonal);
  std::vector<float> ordered(weights.size());
  PermuteColumns(weights, cols, order, absl::MakeSpan(ordered));
  KOMPAKT_ASSIGN_OR_RETURN(const FeedbackFactor factor, FeedbackFactor::Create(triangle, cols));
  KOMPAKT_ASSIGN_OR_RETURN(const FeedbackFactor ordered_factor,
                           FeedbackFactor::Create(PermuteTriangle(triangle, order), cols));
  const BlockFormat& format = FormatOf(id);
  std::vector<uint8_t> tiles(static_cast<size_t>((cols + kTileCols - 1) / kTileCols) * format.tile_bytes);
  EncoderScratch scratch;
  const int64_t rows = static_cast<int64_t>(weights.size()) / cols;
  for (int64_t first = 0; first < rows; first += kTileRows) {
    const int64_t n = std::min(kTileRows, rows - first);
    for (int way = 0; way < kWays; ++way) {
      const std::vector<float>& from = way == 3 ? ordered : weights;
      RowTile in = {from.data() + first * cols, n, cols, {}};
      if (way == 1) in.importance = factor.diagonal();
      float scales[kTileRows];
      KOMPAKT_RETURN_IF_ERROR(
          way < 2 ? EncodeRowTile(id, SearchEffort::kDefault, in, scratch, absl::MakeSpan(tiles),
                                  absl::MakeSpan(scales), nullptr)
                  : EncodeRowTileWithFeedback(id, SearchEffort::kDefault, in, way == 3 ? ordered_factor : factor,
                                              scratch, absl::MakeSpan(tiles), absl::MakeSpan(scales), nullptr));
      std::vector<float> e(static_cast<size_t>(n * cols));
      for (int64_t c = 0; c < cols; ++c) {
        DecodedTile tile;
        format.decode_tile(tiles.data() + static_cast<uint64_t>(c / kTileCols) * format.tile_bytes, scales, &tile);
        const int64_t to = way == 3 ? order[static_cast<size_t>(c)] : c;
        for (int64_t r = 0; r < n; ++r) {
          e[static_cast<size_t>(r * cols + to)] = in.values[r * cols + c] - tile.w[r][c % kTileCols];
        }
      }
      for (int64_t r = 0; r < n; ++r) sums->errors[way] += Quadratic(test, e.data() + r * cols, cols);
    }
    for (int64_t r = 0; r < n; ++r) sums->outputs += Quadratic(test, weights.data() + (first + r) * cols, cols);
  }
  return absl::OkStatus();
}

// Inputs of each layer's attention, then of the head.
absl::StatusOr<std::vector<Inputs>> Record(const LoadedModel& loaded, const TensorSource& source,
                                           const std::vector<int32_t>& ids) {
  const ArchSpec& arch = loaded.model->arch();
  const int64_t h = arch.hidden_size();
  const auto layers = static_cast<size_t>(arch.num_hidden_layers());
  std::vector<Inputs> inputs(layers + 1);
  const auto n = static_cast<int64_t>(ids.size());
  for (int64_t begin = 0; begin < n; begin += kContext) {
    const int64_t count = std::min(kContext, n - begin);
    KOMPAKT_ASSIGN_OR_RETURN(const auto session, Session::Create(loaded.model, count));
    ForwardTrace trace;
    const auto part = absl::MakeConstSpan(ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    KOMPAKT_RETURN_IF_ERROR(session->Forward(part, Session::Logits::kLast, &trace).status());
    for (size_t layer = 0; layer <= layers; ++layer) {
      std::vector<float> norm(static_cast<size_t>(h), 1.0f);
      if (layer < layers) {
        const int64_t t = source.schema().Find(TensorRole::kInputNorm, static_cast<int32_t>(layer), -1);
        KOMPAKT_RETURN_IF_ERROR(
            source.ReadF32(source.schema().tensors()[static_cast<size_t>(t)], 0, 1, absl::MakeSpan(norm)));
      }
      inputs[layer].cols = h;
      std::vector<float>& to = 2 * begin < n ? inputs[layer].calibration : inputs[layer].test;
      for (int64_t t = 0; t < count; ++t) {
        const float* x = trace.hidden.data() + (static_cast<int64_t>(layer) * count + t) * h;
        double square = 0;
        for (int64_t c = 0; c < h; ++c) square += static_cast<double>(x[c]) * static_cast<double>(x[c]);
        // The head's input is normed already.
        const double scale = layer < layers ? 1 / std::sqrt(square / static_cast<double>(h) + arch.rms_norm_eps()) : 1;
        for (int64_t c = 0; c < h; ++c) {
          to.push_back(static_cast<float>(static_cast<double>(x[c]) * scale) * norm[static_cast<size_t>(c)]);
        }
      }
    }
  }
  return inputs;
}

absl::Status Run(const std::string& model, const std::string& text_path, size_t tokens, const std::string& only) {
  std::ifstream file(text_path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, OpenCheckpoint(model));
  KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(model, {.threads = 2}));
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(source->assets()));
  KOMPAKT_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer->Encode(text));
  ids.resize(std::min(ids.size(), tokens));
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<Inputs> inputs, Record(loaded, *source, ids));
  std::printf(
      "relative squared error of outputs, dB, %zu tokens\n| format | matrices | plain | weighted | feedback | in "
      "activation order |\n|---|---|---:|---:|---:|---:|\n",
      ids.size());
  for (const BlockFormat& format : AllFormats()) {
    if (format.exact || format.id == FormatId::kQ8G32 || (!only.empty() && format.name != only)) continue;
    for (const TensorRole role : {TensorRole::kQAProj, TensorRole::kKvAProj, TensorRole::kLmHead}) {
      Sums sums;
      for (const TensorInfo& tensor : source->schema().tensors()) {
        if (tensor.role != role) continue;
        std::vector<float> weights(static_cast<size_t>(tensor.elements()));
        KOMPAKT_RETURN_IF_ERROR(source->ReadF32(tensor, 0, tensor.rows, absl::MakeSpan(weights)));
        const size_t at = tensor.layer < 0 ? inputs.size() - 1 : static_cast<size_t>(tensor.layer);
        KOMPAKT_RETURN_IF_ERROR(Measure(format.id, weights, inputs[at], &sums));
      }
      if (sums.outputs == 0) continue;
      std::printf("| `%s` | `%s` |", std::string(format.name).c_str(), std::string(InfoOf(role).name).c_str());
      for (const double error : sums.errors) std::printf(" %.2f |", 10 * std::log10(error / sums.outputs));
      std::printf("\n");
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace kompakt

int main(int argc, char** argv) {
  const size_t tokens = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 12288;
  const absl::Status status =
      argc < 3 ? absl::InvalidArgumentError("usage: feedback_bench CHECKPOINT TEXT [TOKENS [FORMAT]]")
               : kompakt::Run(argv[1], argv[2], tokens, argc > 4 ? argv[4] : "");
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
