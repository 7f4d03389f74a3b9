// The report of `kompakt compare --html`: one page that needs nothing else, for light and dark, wide and narrow.
#pragma once

#include <string>

#include "tools/compare_report.h"

namespace kompakt {

std::string CompareHtml(const CompareReport& report);

}  // namespace kompakt
