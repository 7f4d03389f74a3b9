// The joules of what a model writes: of its prompt, and of thought and answer apart.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "validate/energy.h"

namespace kompakt {

// Told as the text grows; reads the counter only where one part ends and another begins.
class AnswerEnergy {
 public:
  // The prompt begins.
  explicit AnswerEnergy(EnergyWatch watch) : watch_(std::move(watch)) {}

  // The first token behind the prompt is known.
  void PromptEnds();
  // Part of the text that the next token continues: kUnknown while the model has written nothing but white space, which
  // belongs to what comes then.
  enum class Part { kUnknown, kThought, kAnswer };
  void Continues(Part part);
  // The last token is known. What is still unknown was answer.
  void Ends();

  // After Ends; nothing where it is not measured. A part that is too short for the counter says nothing, where all of
  // the text may.
  std::optional<double> prompt() { return watch_.JoulesOf(prompt_); }
  std::optional<double> thought() { return watch_.JoulesOf(thought_); }
  std::optional<double> answer() { return watch_.JoulesOf(answer_); }
  std::optional<double> text();  // thought and answer
  // What counted, or "not measured: " and why, of the whole text.
  std::string Description();

 private:
  void CutPart();

  EnergyWatch watch_;
  Part part_ = Part::kUnknown;
  EnergyStretch prompt_, thought_, answer_;
};

}  // namespace kompakt
