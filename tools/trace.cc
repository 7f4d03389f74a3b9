// kompakt trace MODEL --ids 0,17,5|@file -o out.safetensors [--chunk N] [--mtp]
#include "absl/strings/str_cat.h"
#include "converters/safetensors_writer.h"
#include "format/arch_spec.h"
#include "format/status.h"
#include "nlohmann/json.hpp"
#include "runtime/mtp.h"
#include "runtime/session.h"
#include "tools/json_text.h"
#include "tools/model_input.h"
#include "tools/runtime_flags.h"
#include "tools/terminal.h"
#include "tools/verbs.h"

namespace kompakt {
namespace {

template <typename T>
TensorToWrite Tensor(std::string name, std::string dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  return {std::move(name), std::move(dtype), std::move(shape),
          absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T))};
}

class TraceVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("model,-m,--model", model_, "A .kpk file, or a checkpoint folder to run as it is")->required();
    app.add_option("--ids", ids_, "Token ids: 0,17,5 or @FILE")->required();
    app.add_option("-o,--output", output_, "The safetensors file to write")->required();
    app.add_option("--chunk", chunk_, "Tokens per forward pass; 0 (default) takes all at once, 1 decodes one by one");
    app.add_flag("--mtp", mtp_, "Trace the MTP layer instead: mtp_input, mtp_layer_out, mtp_logits and its routing");
    DeclareRuntimeFlags(app, runtime_);
    DeclareActivationFlag(app, runtime_, "f32");
    DeclareCacheFlag(app, runtime_.kv, "f32");
    DeclareDeviceFlags(app, runtime_.device, "cpu");
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(const ModelOptions options, ResolveRuntimeFlags(runtime_));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseIds(ids_));
    if (ids.empty()) return UsageError("--ids: no token ids given");
    if (chunk_ < 0) return UsageError("--chunk must be 0 or more, found ", chunk_);
    KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(model_, options, mtp_));
    KOMPAKT_RETURN_IF_ERROR(Forward(loaded.model, ids));
    if (mtp_) return WriteMtp(*loaded.model, ids);
    return Write(loaded.model->arch(), ids);
  }

 private:
  absl::Status Forward(const std::shared_ptr<const Model>& model, const std::vector<int32_t>& ids) {
    const ArchSpec& arch = model->arch();
    const size_t n = ids.size();
    const auto h = static_cast<size_t>(arch.hidden_size());
    const auto k = static_cast<size_t>(arch.moe().num_experts_per_tok());
    const auto hidden_layers = static_cast<size_t>(arch.num_hidden_layers()) + 1;
    for (int64_t layer = 0; layer < arch.num_hidden_layers(); ++layer) moe_layers_ += IsMoeLayer(arch, layer) ? 1 : 0;
    hidden_.resize(hidden_layers * n * h);
    router_ids_.resize(moe_layers_ * n * k);
    router_weights_.resize(moe_layers_ * n * k);
    KOMPAKT_ASSIGN_OR_RETURN(const auto session, Session::Create(model, static_cast<int64_t>(n)));
    const size_t step = chunk_ == 0 ? n : static_cast<size_t>(chunk_);
    for (size_t begin = 0; begin < n; begin += step) {
      const size_t count = std::min(step, n - begin);
      ForwardTrace trace;
      KOMPAKT_ASSIGN_OR_RETURN(
          const Session::Output out,
          session->Forward(absl::MakeConstSpan(ids).subspan(begin, count), Session::Logits::kAll, &trace));
      logits_.insert(logits_.end(), out.logits.begin(), out.logits.end());
      for (size_t layer = 0; layer < hidden_layers; ++layer) {
        std::copy_n(trace.hidden.data() + layer * count * h, count * h, hidden_.data() + (layer * n + begin) * h);
      }
      for (size_t layer = 0; layer < moe_layers_; ++layer) {
        std::copy_n(trace.router_ids.data() + layer * count * k, count * k,
                    router_ids_.data() + (layer * n + begin) * k);
        std::copy_n(trace.router_weights.data() + layer * count * k, count * k,
                    router_weights_.data() + (layer * n + begin) * k);
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<ExitCode> Write(const ArchSpec& arch, const std::vector<int32_t>& ids) {
    const std::vector<int64_t> wide_ids(ids.begin(), ids.end());
    const auto n = static_cast<int64_t>(ids.size());
    const auto moe_layers = static_cast<int64_t>(moe_layers_);
    const int64_t k = arch.moe().num_experts_per_tok();
    KOMPAKT_RETURN_IF_ERROR(WriteSafetensors(
        output_, {Tensor("ids", "I64", {n}, wide_ids), Tensor("logits", "F32", {n, arch.vocab_size()}, logits_),
                  Tensor("hidden", "F32", {arch.num_hidden_layers() + 1, n, arch.hidden_size()}, hidden_),
                  Tensor("router_ids", "I64", {moe_layers, n, k}, router_ids_),
                  Tensor("router_weights", "F32", {moe_layers, n, k}, router_weights_)}));
    if (json_) {
      PrintAnswer(JsonText({{"output", output_},
                            {"tokens", n},
                            {"layers", arch.num_hidden_layers()},
                            {"moe_layers", moe_layers},
                            {"vocab_size", arch.vocab_size()}}));
    } else {
      PrintAnswer(absl::StrCat(output_, ": ids logits hidden router_ids router_weights of ", n, " tokens\n"));
    }
    return kExitYes;
  }

  // The tensors of an MTP layer, under the names that describe one.
  absl::StatusOr<ExitCode> WriteMtp(const Model& model, const std::vector<int32_t>& ids) {
    const ArchSpec& arch = model.arch();
    const auto width = static_cast<size_t>(arch.hidden_size());
    const auto last = absl::MakeConstSpan(hidden_).last(ids.size() * width);
    KOMPAKT_ASSIGN_OR_RETURN(const MtpTrace trace, TraceMtp(model, ids, last));
    const std::vector<int64_t> wide_ids(ids.begin(), ids.end());
    const std::vector<int64_t> router_ids(trace.router_ids.begin(), trace.router_ids.end());
    const auto n = static_cast<int64_t>(ids.size());
    const int64_t k = arch.moe().num_experts_per_tok();
    KOMPAKT_RETURN_IF_ERROR(WriteSafetensors(
        output_,
        {Tensor("ids", "I64", {n}, wide_ids), Tensor("mtp_input", "F32", {n - 1, arch.hidden_size()}, trace.input),
         Tensor("mtp_layer_out", "F32", {n - 1, arch.hidden_size()}, trace.layer_out),
         Tensor("mtp_logits", "F32", {n - 1, arch.vocab_size()}, trace.logits),
         Tensor("router_ids", "I64", {n - 1, k}, router_ids),
         Tensor("router_weights", "F32", {n - 1, k}, trace.router_weights)}));
    if (json_) {
      PrintAnswer(JsonText({{"output", output_}, {"tokens", n - 1}, {"vocab_size", arch.vocab_size()}}));
    } else {
      PrintAnswer(absl::StrCat(output_, ": ids mtp_input mtp_layer_out mtp_logits router_ids router_weights of ", n - 1,
                               " tokens\n"));
    }
    return kExitYes;
  }

  std::string model_, ids_, output_;
  int64_t chunk_ = 0;
  bool mtp_ = false;
  RuntimeFlags runtime_;
  size_t moe_layers_ = 0;
  std::vector<float> logits_, hidden_, router_weights_;
  std::vector<int64_t> router_ids_;
};

}  // namespace

std::unique_ptr<Verb> MakeTraceVerb() { return std::make_unique<TraceVerb>(); }

}  // namespace kompakt
