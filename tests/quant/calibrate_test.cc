// The statistics of a calibration against a forward pass in float64, written from the formulas.
#include "quant/calibrate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <numeric>

#include "quant/importance.h"
#include "runtime/session.h"
#include "tests/converters/status_matchers.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_source.h"
#include "tests/quant/calibration_model.h"

namespace kompakt {
namespace {

using Vec = std::vector<double>;
using Rows = std::vector<Vec>;
using Key = std::pair<TensorRole, int64_t>;

Rows Decode(const MatrixView& m) {
  std::vector<float> values(static_cast<size_t>(m.shape.rows * m.shape.cols));
  DecodeRows(m, 0, m.shape.rows, absl::MakeSpan(values));
  Rows rows;
  for (int64_t r = 0; r < m.shape.rows; ++r) {
    rows.emplace_back(values.begin() + r * m.shape.cols, values.begin() + (r + 1) * m.shape.cols);
  }
  return rows;
}

Vec Times(const Rows& w, const Vec& x) {
  Vec y;
  for (const Vec& row : w) y.push_back(std::inner_product(row.begin(), row.end(), x.begin(), 0.0));
  return y;
}

Vec Norm(const Vec& x, const std::vector<float>& weight, double eps) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
  Vec y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] * scale * static_cast<double>(weight[i]));
  return y;
}

// Adjacent pairs of x[begin..] by the angles of one position.
void Rotate(Vec& x, size_t begin, const float* cos_sin, int64_t dim) {
  for (int64_t p = 0; p < dim / 2; ++p) {
    double& a = x[begin + static_cast<size_t>(2 * p)];
    double& b = x[begin + static_cast<size_t>(2 * p + 1)];
    const auto c = static_cast<double>(cos_sin[2 * p]), s = static_cast<double>(cos_sin[2 * p + 1]);
    const double old = a;
    a = old * c - b * s;
    b = old * s + b * c;
  }
}

// Inputs of every matrix of one layer, for the tokens of one chunk.
class LayerInFloat64 {
 public:
  LayerInFloat64(const Model& model, int64_t layer)
      : binding_(model.binding()), layer_(binding_.layers[static_cast<size_t>(layer)]) {}

  // x: inputs of the layer; ids: its routing, [T, K]. Appends to `inputs`.
  void Run(const Rows& x, const int32_t* ids, std::map<Key, Rows>& inputs) const {
    const Rows attended = Attended(x, inputs);
    const Rows o_proj = Decode(layer_.attention.o_proj);
    const int64_t k = binding_.arch.moe().num_experts_per_tok();
    for (size_t t = 0; t < x.size(); ++t) {
      inputs[{TensorRole::kOProj, -1}].push_back(attended[t]);
      Vec mid = Times(o_proj, attended[t]);
      for (size_t c = 0; c < mid.size(); ++c) mid[c] += x[t][c];
      const Vec normed = Norm(mid, layer_.post_attention_norm, binding_.arch.rms_norm_eps());
      if (!layer_.moe) {
        Ffn(layer_.dense, normed, TensorRole::kDenseGate, TensorRole::kDenseDown, -1, inputs);
        continue;
      }
      Ffn(layer_.shared, normed, TensorRole::kSharedGate, TensorRole::kSharedDown, -1, inputs);
      for (int64_t i = 0; i < k; ++i) {
        const int32_t e = ids[static_cast<int64_t>(t) * k + i];
        Ffn(layer_.experts[static_cast<size_t>(e)], normed, TensorRole::kExpertGate, TensorRole::kExpertDown, e,
            inputs);
      }
    }
  }

 private:
  static void Ffn(const FfnWeights& w, const Vec& x, TensorRole gate_role, TensorRole down_role, int64_t expert,
                  std::map<Key, Rows>& inputs) {
    Vec act = Times(Decode(w.gate), x);
    const Vec up = Times(Decode(w.up), x);
    for (size_t i = 0; i < act.size(); ++i) act[i] = act[i] / (1 + std::exp(-act[i])) * up[i];
    inputs[{gate_role, expert}].push_back(x);
    inputs[{down_role, expert}].push_back(act);
  }

  Rows Attended(const Rows& x, std::map<Key, Rows>& inputs) const {
    const MlaSpec& mla = binding_.arch.mla();
    const AttentionBinding& w = layer_.attention;
    const auto heads = static_cast<size_t>(mla.num_attention_heads()), rank = static_cast<size_t>(mla.kv_lora_rank()),
               nope = static_cast<size_t>(mla.qk_nope_head_dim()), rope = static_cast<size_t>(mla.qk_rope_head_dim()),
               value = static_cast<size_t>(mla.v_head_dim());
    std::vector<float> cos_sin(x.size() * rope);
    binding_.rope.Fill(0, static_cast<int64_t>(x.size()), cos_sin.data());
    const Rows kv_a = Decode(w.kv_a_proj), kv_b = Decode(w.kv_b_proj);
    const bool plain = mla.q_lora_rank() == 0;
    const Rows q_a = plain ? Rows() : Decode(w.q_a_proj), q_b = Decode(plain ? w.q_proj : w.q_b_proj);
    Rows q, kv, shared_key, attended;
    for (size_t t = 0; t < x.size(); ++t) {
      const Vec normed = Norm(x[t], layer_.input_norm, binding_.arch.rms_norm_eps());
      inputs[{TensorRole::kKvAProj, -1}].push_back(normed);
      Vec query_input = normed;
      if (!plain) {
        query_input = Norm(Times(q_a, normed), w.q_a_norm, mla.latent_norm_eps());
        inputs[{TensorRole::kQBProj, -1}].push_back(query_input);
      }
      q.push_back(Times(q_b, query_input));
      const float* const angles = cos_sin.data() + t * rope;
      for (size_t h = 0; h < heads; ++h) Rotate(q[t], h * (nope + rope) + nope, angles, mla.qk_rope_head_dim());
      const Vec a = Times(kv_a, normed);
      const Vec latent =
          Norm(Vec(a.begin(), a.begin() + static_cast<ptrdiff_t>(rank)), w.kv_a_norm, mla.latent_norm_eps());
      inputs[{TensorRole::kKvBProj, -1}].push_back(latent);
      kv.push_back(Times(kv_b, latent));
      shared_key.emplace_back(a.begin() + static_cast<ptrdiff_t>(rank), a.end());
      Rotate(shared_key[t], 0, angles, mla.qk_rope_head_dim());
    }
    for (size_t t = 0; t < x.size(); ++t) {
      Vec out(heads * value, 0.0);
      for (size_t h = 0; h < heads; ++h) {
        Vec weights;
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          double score = 0;
          const size_t at = h * (nope + rope);
          for (size_t i = 0; i < nope; ++i) score += q[t][at + i] * kv[s][h * (nope + value) + i];
          for (size_t i = 0; i < rope; ++i) score += q[t][at + nope + i] * shared_key[s][i];
          weights.push_back(std::exp(score * static_cast<double>(binding_.softmax_scale)));
          sum += weights.back();
        }
        for (size_t s = 0; s <= t; ++s) {
          for (size_t i = 0; i < value; ++i) {
            out[h * value + i] += weights[s] / sum * kv[s][h * (nope + value) + nope + i];
          }
        }
      }
      attended.push_back(out);
    }
    return attended;
  }

  const ModelBinding& binding_;
  const LayerBinding& layer_;
};

Rows RowsOf(const float* x, size_t tokens, size_t width) {
  Rows rows;
  for (size_t t = 0; t < tokens; ++t) rows.emplace_back(x + t * width, x + (t + 1) * width);
  return rows;
}

// The inputs of every matrix of the model, per layer (-1: the head), chunk after chunk.
std::map<int64_t, std::map<Key, Rows>> InputsInFloat64(const Model& model, const CalibrationChunks& chunks) {
  std::map<int64_t, std::map<Key, Rows>> all;
  const auto width = static_cast<size_t>(model.arch().hidden_size());
  const int64_t k = model.arch().moe().num_experts_per_tok();
  for (int64_t c = 0; c < chunks.count(); ++c) {
    const auto ids = chunks.chunk(c);
    ForwardTrace trace;
    const auto session = Session::Create(std::shared_ptr<const Model>(&model, [](const Model*) {}), chunks.context());
    EXPECT_THAT((*session)->Forward(ids, Session::Logits::kNone, &trace), IsOk());
    int64_t moe_layer = 0;
    const int64_t layers = std::ssize(model.binding().layers);
    for (int64_t l = 0; l <= layers; ++l) {
      const Rows x = RowsOf(trace.hidden.data() + static_cast<size_t>(l) * ids.size() * width, ids.size(), width);
      if (l == layers) {
        for (const Vec& row : x) all[-1][{TensorRole::kLmHead, -1}].push_back(row);
        continue;
      }
      const int32_t* routing = nullptr;
      if (model.binding().layers[static_cast<size_t>(l)].moe) {
        routing = trace.router_ids.data() + moe_layer++ * std::ssize(ids) * k;
      }
      LayerInFloat64(model, l).Run(x, routing, all[l]);
    }
  }
  return all;
}

std::string BytesOf(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class CalibrateTest : public testing::Test {
 protected:
  const ScratchFolder folder_;
};

TEST_F(CalibrateTest, MeansAndMomentsAreThoseOfAForwardPassInFloat64) {
  for (const ArchSpec& arch : {SmallV3Arch(), SmallV2LiteArch()}) {
    const auto model = RandomModel(arch);
    const std::vector<int32_t> ids = SomeIds(arch, 31);
    const std::string path = folder_.path() + "/a.kcal";
    CalibrateInto(path, *model, ids, 13, true);
    const auto file = OpenedCalibration(path);
    const auto chunks = *CalibrationChunks::Create(ids, 1, 13, 0);
    ASSERT_EQ(chunks.count(), 3);
    auto expected = InputsInFloat64(*model, chunks);
    for (size_t r = 0; r < file->rows().size(); ++r) {
      const CalibrationRow& row = file->rows()[r];
      const Rows& inputs = expected[row.layer][{row.role, row.expert}];
      ASSERT_EQ(row.tokens, std::ssize(inputs)) << NameOf(row);
      if (inputs.empty()) continue;
      std::vector<float> means(static_cast<size_t>(row.width));
      ASSERT_THAT(file->ReadMeans(static_cast<int64_t>(r), absl::MakeSpan(means)), IsOk());
      std::vector<float> triangle;
      if (row.has_matrix) {
        ASSERT_THAT(file->ReadMatrix(static_cast<int64_t>(r), &triangle), IsOk());
      }
      double average = 0;
      for (const float m : means) average += static_cast<double>(m) / static_cast<double>(row.width);
      // F32 activations of the runtime: a few 1e-6 of the input's size each.
      const double tolerance = 1e-4 * average;
      size_t at = 0;
      for (size_t i = 0; i < means.size(); ++i) {
        for (size_t j = i; j < (row.has_matrix ? means.size() : i + 1); ++j) {
          double sum = 0;
          for (const Vec& x : inputs) sum += x[i] * x[j];
          const double moment = sum / static_cast<double>(inputs.size());
          if (i == j) {
            ASSERT_NEAR(static_cast<double>(means[i]), moment, tolerance) << NameOf(row) << " channel " << i;
          }
          if (!row.has_matrix) continue;
          if (i == j) {
            ASSERT_EQ(triangle[at], means[i]) << NameOf(row);
          }
          ASSERT_NEAR(static_cast<double>(triangle[at++]), moment, tolerance) << NameOf(row) << " " << i << ", " << j;
        }
      }
    }
  }
}

TEST_F(CalibrateTest, DoesNotDependOnThreads) {
  const std::vector<int32_t> ids = SomeIds(SmallV3Arch(), 40);
  CalibrateInto(folder_.path() + "/1.kcal", *RandomModel(SmallV3Arch(), 1), ids, 16, true);
  CalibrateInto(folder_.path() + "/3.kcal", *RandomModel(SmallV3Arch(), 3), ids, 16, true);
  EXPECT_EQ(BytesOf(folder_.path() + "/1.kcal"), BytesOf(folder_.path() + "/3.kcal"));
}

// Layer 2 attends to what layer 1 selected, which must be kept for every chunk between the layers.
TEST_F(CalibrateTest, LayersWithoutAnIndexerUseTheSelectionOfTheirOwnChunk) {
  const ArchSpec arch = SmallV32Arch();
  const auto model = RandomModel(arch);
  const std::vector<int32_t> ids = SomeIds(arch, 50);
  CalibrateInto(folder_.path() + "/a.kcal", *model, ids, 20, false);
  const auto file = OpenedCalibration(folder_.path() + "/a.kcal");
  const auto chunks = *CalibrationChunks::Create(ids, 1, 20, 0);
  Vec sums(static_cast<size_t>(arch.hidden_size()), 0.0);
  for (int64_t c = 0; c < chunks.count(); ++c) {
    ForwardTrace trace;
    const auto session = Session::Create(model, 20);
    ASSERT_THAT((*session)->Forward(chunks.chunk(c), Session::Logits::kNone, &trace), IsOk());
    const size_t begin = trace.hidden.size() - chunks.chunk(c).size() * sums.size();
    for (size_t i = begin; i < trace.hidden.size(); ++i) {
      sums[(i - begin) % sums.size()] += static_cast<double>(trace.hidden[i]) * static_cast<double>(trace.hidden[i]);
    }
  }
  std::vector<float> means(sums.size());
  ASSERT_THAT(file->ReadMeans(file->Find(TensorRole::kLmHead, -1, -1), absl::MakeSpan(means)), IsOk());
  for (size_t c = 0; c < sums.size(); ++c) {
    const double expected = sums[c] / static_cast<double>(chunks.tokens());
    EXPECT_NEAR(static_cast<double>(means[c]), expected, 1e-4 * expected + 1e-6) << "channel " << c;
  }
}

TEST_F(CalibrateTest, MtpLayersAreSeenOncePerPairOfTokens) {
  const auto model = RandomModel(SmallMtpArch());
  const CalibrationReport report =
      CalibrateInto(folder_.path() + "/a.kcal", *model, SomeIds(SmallMtpArch(), 30), 16, false);
  const auto file = OpenedCalibration(folder_.path() + "/a.kcal");
  EXPECT_EQ(file->header().tokens, 32);
  EXPECT_EQ(file->rows()[static_cast<size_t>(file->Find(TensorRole::kMtpProj, 3, -1))].tokens, 30);
  ASSERT_EQ(report.layers.size(), 3u);
  EXPECT_EQ(report.layers[2].layer, 3);
  int64_t tokens = 0;
  for (const int64_t n : report.layers[2].tokens_per_expert) tokens += n;
  EXPECT_EQ(tokens, 60);
}

TEST_F(CalibrateTest, TakesNoMoreMemoryForActivationsThanItSaid) {
  const auto model = RandomModel(SmallV3Arch());
  const auto rows = CalibrationRows(model->weights().schema(), true);
  const auto few = *CalibrationChunks::Create(SomeIds(SmallV3Arch(), 30), 1, 16, 0);
  const auto many = *CalibrationChunks::Create(SomeIds(SmallV3Arch(), 300), 1, 16, 0);
  const auto memory_of = [&](const CalibrationChunks& chunks) {
    return CalibrationMemoryOf(model->arch(), model->options().threads, chunks.tokens(), chunks.context(), rows);
  };
  const CalibrationMemory a = memory_of(few), b = memory_of(many);
  EXPECT_EQ(a.hidden_bytes, 32u * 136u * sizeof(float));
  EXPECT_EQ(b.hidden_bytes, 320u * 136u * sizeof(float));
  EXPECT_EQ(a.statistics_bytes, b.statistics_bytes);
  EXPECT_EQ(a.working_bytes, b.working_bytes);
}

TEST_F(CalibrateTest, LeavesNothingBehindWhenItIsStopped) {
  const auto model = RandomModel(SmallV3Arch());
  const auto chunks = *CalibrationChunks::Create(SomeIds(SmallV3Arch(), 30), 1, 16, 0);
  const std::string path = folder_.path() + "/a.kcal";
  CalibrationHeader header;
  header.tokens = chunks.tokens();
  header.context = 16;
  {
    const auto writer =
        CalibrationWriter::Create(PosixFileSystem(), path, header, CalibrationRows(model->weights().schema(), false));
    ASSERT_THAT(writer, IsOk());
    EXPECT_THAT(Calibrate(*model, chunks, **writer, [](int64_t done, int64_t) { return done < 3; }),
                Fails(absl::StatusCode::kCancelled, {"stopped"}));
  }
  EXPECT_FALSE(PosixFileSystem().Exists(path));
  EXPECT_FALSE(PosixFileSystem().Exists(path + ".partial"));
}

TEST(CalibrationChunks, EveryChunkBeginsWithBosAndNoTokenIsLost) {
  const auto chunks = *CalibrationChunks::Create({10, 11, 12, 13, 14, 15, 16}, 1, 4, 0);
  EXPECT_THAT(chunks.chunk(0), testing::ElementsAre(1, 10, 11, 12));
  EXPECT_THAT(chunks.chunk(1), testing::ElementsAre(1, 13, 14, 15));
  EXPECT_THAT(chunks.chunk(2), testing::ElementsAre(1, 16));
  EXPECT_THAT(CalibrationChunks::Create({10, 11, 12}, std::nullopt, 2, 2)->chunk(0), testing::ElementsAre(10, 11));
  EXPECT_THAT(CalibrationChunks::Create({}, 1, 4, 0), Fails(absl::StatusCode::kInvalidArgument, {"no tokens"}));
  EXPECT_THAT(CalibrationChunks::Create({1}, 1, 1, 0), Fails(absl::StatusCode::kInvalidArgument, {"2", "1"}));
}

}  // namespace
}  // namespace kompakt
