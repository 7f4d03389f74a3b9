#include "converters/source_forms.h"

#include <algorithm>
#include <array>
#include <set>

#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "converters/element_reads.h"
#include "converters/form_fp8.h"
#include "converters/form_plain.h"
#include "converters/form_table.h"
#include "format/status.h"

namespace kompakt {
namespace {

// The first row that recognises a module has it.
constexpr std::array<const SourceForm*, 9> kTable = {
    &kPlainForm,       &kFp8Form,           &kMxfp4Form, &kNvfp4Form, &kNvfp4PackedForm,
    &kMxfp4PackedForm, &kPackQuantizedForm, &kGptqForm,  &kAwqForm,
};

absl::Status UnknownForm(const ModuleRequest& request, const FoundTensor& elements) {
  const absl::string_view dtype = InfoOf(elements.entry->dtype).name;
  if (absl::EndsWith(elements.entry->name, ".qweight")) {
    return UnsupportedError(elements.file->path(), ": tensor ", elements.entry->name,
                            ": GPTQ or AWQ? Expected a quantization_config with quant_method \"gptq\" or \"awq\", "
                            "found none");
  }
  if (dtype == "U8") {
    return MismatchError(elements, "4-bit codes in U8 without ", request.module, ".weight_scale");
  }
  std::vector<absl::string_view> known = {"BF16", "F16", "F32", "F8_E4M3", "I8 (MXFP4)", "U8 (NVFP4, MXFP4)"};
  if (absl::EndsWith(elements.entry->name, ".weight_packed")) known = {"I32", "U8 (NVFP4, MXFP4)"};
  return UnsupportedError(elements.file->path(), ": tensor ", elements.entry->name, ": expected dtype ",
                          absl::StrJoin(known, ", "), ", found ", dtype);
}

struct Recognised {
  const SourceForm* form = nullptr;
  FoundTensor elements;
};

absl::StatusOr<Recognised> Recognise(const ModuleRequest& request) {
  FoundTensor strange;
  std::vector<FoundTensor> candidates;
  for (const SourceForm& form : AllSourceForms()) {
    const FoundTensor elements = request.Find(form.elements);
    if (!elements) continue;
    if (candidates.empty() || candidates.back().entry != elements.entry) {
      if (std::none_of(candidates.begin(), candidates.end(),
                       [&](const FoundTensor& c) { return c.entry == elements.entry; })) {
        candidates.push_back(elements);
      }
    }
  }
  if (candidates.size() > 1) {
    return MismatchError(candidates[1], "a second form of the weight that ", candidates[0].entry->name,
                         " holds as well");
  }
  for (const SourceForm& form : AllSourceForms()) {
    const FoundTensor elements = request.Find(form.elements);
    if (!elements) continue;
    if (form.recognises(request, elements)) return Recognised{&form, elements};
    strange = elements;
  }
  if (strange) return UnknownForm(request, strange);
  return Recognised();
}

}  // namespace

FoundTensor ModuleRequest::Find(absl::string_view suffix) const { return shards->Find(absl::StrCat(module, suffix)); }

absl::Span<const SourceForm> AllSourceForms() {
  static const std::vector<SourceForm>* const rows = [] {
    auto* all = new std::vector<SourceForm>();
    for (const SourceForm* form : kTable) all->push_back(*form);
    return all;
  }();
  return *rows;
}

absl::StatusOr<const SourceForm*> FindSourceForm(const ModuleRequest& request) {
  KOMPAKT_ASSIGN_OR_RETURN(const Recognised found, Recognise(request));
  return found.form;
}

absl::StatusOr<BoundModule> BindModule(const ModuleRequest& request) {
  KOMPAKT_ASSIGN_OR_RETURN(const Recognised found, Recognise(request));
  if (found.form == nullptr)
    return absl::NotFoundError(absl::StrCat("no tensor holds the elements of ", request.module));
  KOMPAKT_ASSIGN_OR_RETURN(BoundModule bound, found.form->bind(request, found.elements));
  for (const absl::string_view suffix : found.form->ignored) {
    if (const FoundTensor companion = request.Find(suffix)) bound.used.push_back(companion);
  }
  return bound;
}

absl::StatusOr<BoundModule> BindFused(const ModuleRequest& request, const FusedSlice& slice) {
  const FoundTensor elements = request.shards->Find(request.module);
  if (!elements) return absl::NotFoundError(absl::StrCat("no tensor ", request.module));
  KOMPAKT_RETURN_IF_ERROR(CheckShape(elements, {slice.matrices, slice.matrix_rows, request.shape->cols}));
  if (elements.entry->dtype == Dtype::kF8E4M3) return BindFp8(request, elements, *request.shape, &slice);
  if (IsFloat(elements.entry->dtype)) return BindPlain(request, elements, *request.shape, &slice);
  return UnsupportedError(elements.file->path(), ": tensor ", elements.entry->name,
                          ": expected dtype BF16, F16, F32 or F8_E4M3, found ", InfoOf(elements.entry->dtype).name);
}

std::vector<std::string> QuantizedModules(const ShardSet& shards, const SourceQuantization& quantization) {
  std::set<std::string> modules;
  for (const auto& shard : shards.shards()) {
    for (const SafetensorsEntry& entry : shard->entries()) {
      for (const SourceForm& form : AllSourceForms()) {
        absl::string_view module = entry.name;
        if (form.elements.empty() || !absl::ConsumeSuffix(&module, form.elements) || module.empty()) continue;
        if (IsFloat(entry.dtype)) continue;
        ModuleRequest request{&shards, &quantization, std::string(module), std::nullopt};
        const FoundTensor elements{shard.get(), &entry};
        if (form.recognises(request, elements)) modules.insert(std::string(module));
      }
    }
  }
  return {modules.begin(), modules.end()};
}

}  // namespace kompakt
