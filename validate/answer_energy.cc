#include "validate/answer_energy.h"

#include "absl/strings/str_cat.h"

namespace kompakt {

void AnswerEnergy::PromptEnds() { prompt_ = watch_.Cut(); }

void AnswerEnergy::Continues(Part part) {
  if (part == part_ || part == Part::kUnknown) return;
  if (part_ != Part::kUnknown) CutPart();
  part_ = part;
}

void AnswerEnergy::Ends() { CutPart(); }

void AnswerEnergy::CutPart() { (part_ == Part::kThought ? thought_ : answer_) += watch_.Cut(); }

std::optional<double> AnswerEnergy::text() {
  EnergyStretch both = thought_;
  both += answer_;
  return watch_.JoulesOf(both);
}

std::string AnswerEnergy::Description() {
  return text().has_value() ? watch_.what() : absl::StrCat("not measured: ", watch_.why_not());
}

}  // namespace kompakt
