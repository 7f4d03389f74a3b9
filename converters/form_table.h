// The rows of the table in source_forms.cc, each defined in the file of its form.
#pragma once

#include "converters/source_forms.h"

namespace kompakt {

extern const SourceForm kMxfp4Form;
extern const SourceForm kMxfp4PackedForm;
extern const SourceForm kNvfp4Form;
extern const SourceForm kNvfp4PackedForm;
extern const SourceForm kPackQuantizedForm;
extern const SourceForm kGptqForm;
extern const SourceForm kAwqForm;

}  // namespace kompakt
