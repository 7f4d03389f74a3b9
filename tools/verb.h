// A verb of the command line: one file in tools/, one row in verb_table.cc.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "tools/exit_code.h"

namespace kompakt {

class Verb {
 public:
  virtual ~Verb() = default;
  // Declares options; their targets are members of the verb.
  virtual void Declare(CLI::App& app) = 0;
  // Does the work after parsing. The answer goes through tools/terminal.h.
  virtual absl::StatusOr<ExitCode> Run() = 0;

 protected:
  // Every verb takes --json: one object on stdout instead of text.
  bool json_ = false;

 private:
  friend int RunCommandLine(int argc, const char* const* argv);
};

struct VerbRow {
  absl::string_view name;
  absl::string_view summary;
  absl::string_view example;  // one or more command lines, shown by --help
  std::unique_ptr<Verb> (*make)();
};

absl::Span<const VerbRow> AllVerbs();

// Parses, runs, prints errors, and gives the exit code. The only place where a Status becomes one.
int RunCommandLine(int argc, const char* const* argv);

// Set by SIGINT and SIGTERM; long work checks it and stops with kCancelled. A verb holds a StopsByItself while it does:
// without one the signal ends the process at once, exit 130, for nothing is lost.
const std::atomic<bool>& Interrupted();
class StopsByItself {
 public:
  StopsByItself();
  ~StopsByItself();
  StopsByItself(const StopsByItself&) = delete;
  StopsByItself& operator=(const StopsByItself&) = delete;
};

// This process' command line as a shell takes it, to go on with what it left: without `flag`.
std::string CommandLineText(absl::string_view flag = "");

}  // namespace kompakt
