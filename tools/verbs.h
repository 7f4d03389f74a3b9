// The makers of all verbs; each is defined in the file of its name.
#pragma once

#include <memory>

#include "tools/verb.h"

namespace kompakt {

std::unique_ptr<Verb> MakeConvertVerb();      // convert.cc
std::unique_ptr<Verb> MakeExportVerb();       // export.cc
std::unique_ptr<Verb> MakePlanVerb();         // plan.cc
std::unique_ptr<Verb> MakeInspectVerb();      // inspect.cc
std::unique_ptr<Verb> MakeVerifyVerb();       // verify.cc
std::unique_ptr<Verb> MakeTokenizeVerb();     // tokenize.cc
std::unique_ptr<Verb> MakeTraceVerb();        // trace.cc
std::unique_ptr<Verb> MakePerplexityVerb();   // perplexity.cc
std::unique_ptr<Verb> MakeCompareVerb();      // compare.cc
std::unique_ptr<Verb> MakeSensitivityVerb();  // sensitivity.cc
std::unique_ptr<Verb> MakeCalibrateVerb();    // calibrate.cc
std::unique_ptr<Verb> MakeRunVerb();          // run.cc
std::unique_ptr<Verb> MakeBenchVerb();        // bench.cc

}  // namespace kompakt
