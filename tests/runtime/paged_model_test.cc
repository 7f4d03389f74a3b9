// A model whose experts are not all in memory answers bit for bit as one that is, within the memory it was promised.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "converters/checkpoint.h"
#include "format/file_system.h"
#include "format/packed_reader.h"
#include "format/status.h"
#include "kernels/sanitizers.h"
#include "quant/convert.h"
#include "runtime/expert_cache.h"
#include "runtime/footprint.h"
#include "runtime/paged_weights.h"
#include "runtime/paging_plan.h"
#include "runtime/session.h"
#include "tests/converters/status_matchers.h"
#include "tests/fixtures/faulty_file_system.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"
#include "tests/runtime/golden_file.h"

namespace kompakt {
namespace {

std::shared_ptr<const PackedReader> Packed(const std::string& checkpoint, const ScratchFolder& folder,
                                           uint64_t volume_bytes = 0) {
  const auto source = *OpenCheckpoint(CheckpointFolder(checkpoint));
  const std::string path = folder / (checkpoint + ".kpk");
  ConvertOptions options;
  options.volume_bytes = volume_bytes;
  EXPECT_THAT(Convert(*source, *QuantRecipe::Builtin("q4"), path, options, PosixFileSystem()), IsOk());
  return *PackedReader::Open(path);
}

// The logits of a prompt and of tokens after it, one by one.
absl::StatusOr<std::vector<float>> Answer(const std::shared_ptr<const Model>& model, absl::Span<const int32_t> ids) {
  KOMPAKT_ASSIGN_OR_RETURN(const auto session, Session::Create(model, std::ssize(ids)));
  const size_t prompt = ids.size() - 4;
  KOMPAKT_ASSIGN_OR_RETURN(Session::Output output, session->Forward(ids.first(prompt), Session::Logits::kAll));
  for (size_t i = prompt; i < ids.size(); ++i) {
    KOMPAKT_ASSIGN_OR_RETURN(const Session::Output next, session->Forward(ids.subspan(i, 1), Session::Logits::kAll));
    output.logits.insert(output.logits.end(), next.logits.begin(), next.logits.end());
  }
  return output.logits;
}

TEST(PagedModel, AnswersBitForBitAsTheMappedOne) {
  for (const char* const name : {"v2lite", "v3", "v32", "kimi"}) {
    for (const uint64_t volume_bytes : {uint64_t{0}, uint64_t{900000}}) {
      const ScratchFolder folder;
      const auto file = Packed(name, folder, volume_bytes);
      EXPECT_EQ(file->file().files.size() > 1, volume_bytes > 0) << name;
      const std::vector<int32_t> ids = GoldenInts(CheckpointFolder(name) + "/golden.safetensors", "ids");
      const uint64_t least = ExpertCache::LeastBytes(file->layout());
      for (const KernelSet* kernels : AllKernelSets()) {
        const bool best = kernels == *BestKernelSet();
        // Where the bytes come from is tried with the set that is used; every set with one file of one model.
        const bool this_set = best || (volume_bytes == 0 && name == absl::string_view("v3"));
        if (!kernels->available() || !this_set) continue;
        for (const auto act : {ActivationPolicy::Kind::kF32, ActivationPolicy::Kind::kAuto}) {
          const ModelOptions options{.threads = 2, .kernels = kernels, .act = ActivationPolicy(act)};
          const auto expected = Answer(*Model::Load(PackedWeights(file), options), ids);
          ASSERT_THAT(expected, IsOk());
          std::vector<uint64_t> rooms = {least};
          if (best) rooms.insert(rooms.end(), {least * 3, file->file_bytes()});
          for (const uint64_t expert_bytes : rooms) {
            const auto weights = OpenPagedWeights(PosixFileSystem(), file, expert_bytes, 2);
            ASSERT_THAT(weights, IsOk());
            const auto found = Answer(*Model::Load(*weights, options), ids);
            ASSERT_THAT(found, IsOk());
            EXPECT_EQ(*found, *expected) << name << ", " << kernels->name << ", activations " << options.act.name()
                                         << ", " << expert_bytes << " bytes of experts";
          }
        }
      }
    }
  }
}

TEST(PagedModel, AFailingReadIsNamedAndTheNextAnswerIsRight) {
  const ScratchFolder folder;
  const auto file = Packed("v2lite", folder);
  const std::vector<int32_t> ids = GoldenInts(CheckpointFolder("v2lite") + "/golden.safetensors", "ids");
  const ModelOptions options{.threads = 2};
  const auto expected = Answer(*Model::Load(PackedWeights(file), options), ids);
  ASSERT_THAT(expected, IsOk());
  const uint64_t least = ExpertCache::LeastBytes(file->layout());
  int failed_opens = 0;
  int failed_answers = 0;
  int64_t steps = 1;
  for (int64_t step = 0; step < steps; step += 1 + step / 10) {
    FaultyFileSystem fs(PosixFileSystem(), Fault::kDeviceError, step);
    const auto weights = OpenPagedWeights(fs, file, least * 2, 2);
    if (!weights.ok()) {
      EXPECT_THAT(weights, Fails(absl::StatusCode::kUnavailable, {"v2lite.kpk"})) << "step " << step;
      ++failed_opens;
      steps = step + 2;
      continue;
    }
    const auto model = *Model::Load(*weights, options);
    const auto answer = Answer(model, ids);
    if (!answer.ok()) {
      ++failed_answers;
      EXPECT_THAT(answer, Fails(absl::StatusCode::kUnavailable, {"v2lite.kpk: layer ", ": expert "})) << step;
    } else {
      // The read of a guess failed, or one that was tried again.
      EXPECT_EQ(*answer, *expected) << "step " << step;
    }
    if (!fs.failed()) break;  // it takes no more than that many calls
    const auto again = Answer(model, ids);
    ASSERT_THAT(again, IsOk()) << "step " << step;
    EXPECT_EQ(*again, *expected) << "step " << step;
    steps = fs.steps();
  }
  EXPECT_GT(failed_opens, 2);
  EXPECT_GT(failed_answers, 0);
}

TEST(PagedModel, ADamagedMatrixOfEveryTokenIsNamedAtOnce) {
  const ScratchFolder folder;
  auto file = Packed("v2lite", folder);
  const std::string path = file->path();
  const PackedLayout::Place place = file->layout().Find(TensorRole::kOProj, 1);
  const uint64_t offset = file->layout().extents()[static_cast<size_t>(place.extent)].offset + 7;
  file.reset();
  std::vector<uint8_t> bytes = ReadWholeFile(path);
  bytes[offset] ^= 0x10;
  WriteWholeFile(path, bytes);
  EXPECT_THAT(OpenPagedWeights(PosixFileSystem(), *PackedReader::Open(path), uint64_t{1} << 30, 2),
              Fails(absl::StatusCode::kDataLoss, {path, "model.layers.1.self_attn.o_proj.weight", "XXH3"}));
}

// Of /proc/self/status, in bytes; 0 where there is none.
uint64_t StatusBytes(const std::string& name) {
  std::ifstream in("/proc/self/status");
  std::string word;
  while (in >> word) {
    uint64_t kib = 0;
    if (word == name + ":" && in >> kib) return kib * 1024;
  }
  return 0;
}

// Experts of 48 MB, to be run within 24 MB.
ArchSpec LargeArch() {
  ArchSpec arch = SmallV3Arch();
  arch.set_hidden_size(512);
  arch.mutable_moe()->set_n_routed_experts(64);
  arch.mutable_moe()->set_n_group(1);
  arch.mutable_moe()->set_topk_group(1);
  arch.mutable_moe()->set_moe_intermediate_size(256);
  arch.set_num_hidden_layers(4);
  return arch;
}

TEST(PagedModel, TakesNoMoreMemoryThanItWasPromised) {
  const ScratchFolder folder;
  const std::string path = folder / "large.kpk";
  const ModelSchema schema = *ModelSchema::Create(LargeArch());
  std::vector<FormatId> formats;
  for (const TensorInfo& t : schema.tensors()) {
    formats.push_back(t.is_vector() ? FormatId::kF32 : t.expert >= 0 ? FormatId::kQ8G32 : FormatId::kBf16);
  }
  ASSERT_THAT(WriteSyntheticFile(PosixFileSystem(), path, SyntheticPlan(schema, formats), 3), IsOk());
  const auto file = *PackedReader::Open(path);
  constexpr int64_t kContext = 600;
  constexpr uint64_t kRam = 40 << 20;
  const auto plan = PlanPaging(file->schema(), file->layout(), kRam, 0, kContext, 2, CacheFormat::kF32);
  ASSERT_THAT(plan, IsOk());
  ASSERT_GT(plan->all_expert_bytes, 2 * plan->expert_bytes);
  // Sets the peak to what there is now; where it cannot be set there is nothing to measure.
  std::ofstream("/proc/self/clear_refs") << "5";
  const uint64_t before = StatusBytes("VmRSS");
  if (before == 0 || StatusBytes("VmHWM") > before + (8 << 20)) GTEST_SKIP() << "the system does not say";
  const auto weights = OpenPagedWeights(PosixFileSystem(), file, plan->expert_bytes, 2);
  ASSERT_THAT(weights, IsOk());
  const auto model = *Model::Load(*weights, {.threads = 2});
  auto session = *Session::Create(model, kContext);
  std::vector<int32_t> ids(kContext - 8);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 37 % 301);
  ASSERT_THAT(session->Forward(ids, Session::Logits::kLast), IsOk());
  for (int32_t i = 0; i < 8; ++i) ASSERT_THAT(session->Forward({i * 11}, Session::Logits::kLast), IsOk());
  EXPECT_GT((*weights)->experts()->stats().read_bytes, plan->expert_bytes);
  // Besides what is planned: threads, the heap's own bookkeeping.
  if (!kSanitized) {
    EXPECT_LE(StatusBytes("VmHWM"), before + kRam + (8 << 20));
  }
}

TEST(PagedModel, SaysWhatWouldBeEnough) {
  const ScratchFolder folder;
  const auto file = Packed("v3", folder);
  const auto refused =
      PlanPaging(file->schema(), file->layout(), 1 << 20, uint64_t{20} << 20, 100, 2, CacheFormat::kF32);
  EXPECT_THAT(refused,
              Fails(absl::StatusCode::kInvalidArgument, {"--ram", "expected at least", "found 1 MiB",
                                                         "KV cache for 100 tokens", "20 MiB for the program"}));
  const std::string message(refused.status().message());
  const uint64_t enough = std::stoull(message.substr(message.find("at least ") + 9)) << 20;
  EXPECT_THAT(PlanPaging(file->schema(), file->layout(), enough, uint64_t{20} << 20, 100, 2, CacheFormat::kF32),
              IsOk());
  EXPECT_FALSE(PlanPaging(file->schema(), file->layout(), enough - (uint64_t{2} << 20), uint64_t{20} << 20, 100, 2,
                          CacheFormat::kF32)
                   .ok());
}

}  // namespace
}  // namespace kompakt
