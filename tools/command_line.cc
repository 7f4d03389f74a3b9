#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "format/near_names.h"
#include "tools/terminal.h"
#include "tools/verb.h"

namespace kompakt {
namespace {

std::atomic<bool> interrupted{false};
std::atomic<int> stops_by_itself{0};
std::vector<std::string> command_line;

// The first signal asks the work to stop; the handler then steps aside, so that a second one ends the process at once.
void OnSignal(int signal_number) {
  interrupted.store(true);
  if (stops_by_itself.load() == 0) {
    constexpr char kMessage[] = "interrupted\n";
    (void)!write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1);
    _exit(kExitInterrupted);
  }
  std::signal(signal_number, SIG_DFL);
}

// A word as a shell takes it.
std::string Quoted(const std::string& word) {
  const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || absl::StrContains("-_./=,:@%+", c);
  });
  return plain ? word : absl::StrCat("'", absl::StrReplaceAll(word, {{"'", "'\\''"}}), "'");
}

std::string ProgramHelp() {
  std::string text =
      "kompakt: packs DeepSeek-family checkpoints into one small file, proves what that cost, and runs it\n\n"
      "Usage: kompakt VERB [ARGUMENTS]\n\nVerbs:\n";
  for (const VerbRow& verb : AllVerbs())
    absl::StrAppend(&text, absl::StrFormat("  %-12s %s\n", verb.name, verb.summary));
  absl::StrAppend(&text,
                  "\n`kompakt VERB --help` shows a verb's options and an example. --version prints the version.\n"
                  "Exit codes: 0 yes, 1 ran fine but the answer is no, 2 usage, 3 input corrupt or unsupported,\n"
                  "4 I/O, disk or memory, 5 device unavailable, 70 a bug, 130 interrupted.\n");
  return text;
}

int UsageFailure(absl::string_view message, absl::string_view help) {
  PrintNotice(absl::StrCat("error: ", message));
  PrintNotice(absl::StrCat("`kompakt ", help, "` lists what there is"));
  return kExitUsage;
}

// Every spelling of every option of a verb, for "did you mean".
std::vector<std::string> OptionNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
  }
  return names;
}

int UnknownArgument(const CLI::App& app, absl::string_view verb, const std::string& argument) {
  const std::string flag = argument.substr(0, argument.find('='));
  if (flag.empty() || flag[0] != '-') {
    return UsageFailure(absl::StrCat(verb, " takes no further argument \"", argument, "\""),
                        absl::StrCat(verb, " --help"));
  }
  const std::vector<std::string> names = OptionNames(app);
  const std::vector<absl::string_view> views(names.begin(), names.end());
  return UsageFailure(absl::StrCat("unknown option ", flag, " of ", verb, DidYouMean(flag, views)),
                      absl::StrCat(verb, " --help"));
}

int Fail(const absl::Status& status) {
  const ExitCode code = ExitCodeOf(status);
  if (code == kExitInterrupted) {
    PrintNoticeLines(absl::StrCat("interrupted: ", status.message()));  // the command to go on has a line of its own
  } else {
    PrintNotice(absl::StrCat("error: ", status.message()));
  }
  if (code == kExitBug) {
    PrintNotice("This is a bug of kompakt. Please report it with the command line and the message above.");
  }
  return code;
}

// Nothing below lets an exception out, except the standard library when memory is gone.
int RunVerb(Verb& verb) {
  try {
    const absl::StatusOr<ExitCode> code = verb.Run();
    return code.ok() ? *code : Fail(code.status());
  } catch (const std::bad_alloc&) {
    return Fail(absl::ResourceExhaustedError("not enough memory"));
  } catch (const std::exception& e) {
    return Fail(absl::InternalError(e.what()));
  }
}

}  // namespace

const std::atomic<bool>& Interrupted() { return interrupted; }

StopsByItself::StopsByItself() { ++stops_by_itself; }
StopsByItself::~StopsByItself() { --stops_by_itself; }

std::string CommandLineText(absl::string_view flag) {
  std::vector<std::string> words;
  for (const std::string& word : command_line) {
    if (flag.empty() || word != flag) words.push_back(Quoted(word));
  }
  return absl::StrJoin(words, " ");
}

int RunCommandLine(int argc, const char* const* argv) {
  command_line.assign(argv, argv + argc);
  std::signal(SIGINT, OnSignal);
  std::signal(SIGTERM, OnSignal);
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the write, not the end of a conversion
  std::signal(SIGXFSZ, SIG_IGN);  // so is a file that may not grow any further (ulimit -f)
  const std::string first = argc > 1 ? argv[1] : "";
  if (first == "--version") return PrintAnswer("kompakt " KOMPAKT_VERSION "\n") ? kExitYes : kExitIo;
  if (first == "--help" || first == "-h" || first == "help") return PrintAnswer(ProgramHelp()) ? kExitYes : kExitIo;
  if (first.empty()) {
    PrintNoticeLines(ProgramHelp());
    return kExitUsage;
  }
  const VerbRow* row = nullptr;
  std::vector<absl::string_view> names;
  for (const VerbRow& candidate : AllVerbs()) {
    names.push_back(candidate.name);
    if (candidate.name == first) row = &candidate;
  }
  if (row == nullptr)
    return UsageFailure(absl::StrCat("unknown verb \"", first, "\"", DidYouMean(first, names)), "--help");

  const std::unique_ptr<Verb> verb = row->make();
  CLI::App app(std::string(row->summary), absl::StrCat("kompakt ", row->name));
  bool verbose = false;
  app.set_version_flag("--version", "kompakt " KOMPAKT_VERSION);
  app.add_flag("--json", verb->json_, "Print one JSON object on stdout");
  app.add_flag("-v,--verbose", verbose, "Say more on stderr");
  app.footer(absl::StrCat("Example:\n  ", absl::StrReplaceAll(row->example, {{"\n", "\n  "}})));
  app.allow_extras();  // collected and answered by UnknownArgument
  verb->Declare(app);
  // A flag of llama.cpp that would be read as -n with a value.
  std::vector<std::string> arguments(argv, argv + argc);
  for (std::string& argument : arguments) {
    if (argument == "-ngl" || absl::StartsWith(argument, "-ngl=")) argument.insert(0, "-");
  }
  std::vector<const char*> words;
  words.reserve(arguments.size());
  for (const std::string& argument : arguments) words.push_back(argument.c_str());
  try {
    app.parse(argc - 1, words.data() + 1);
  } catch (const CLI::CallForHelp&) {
    return PrintAnswer(app.help()) ? kExitYes : kExitIo;
  } catch (const CLI::CallForVersion& e) {
    return PrintAnswer(absl::StrCat(e.what(), "\n")) ? kExitYes : kExitIo;
  } catch (const CLI::ParseError& e) {
    if (!app.remaining().empty()) return UnknownArgument(app, row->name, app.remaining().front());
    return UsageFailure(e.what(), absl::StrCat(row->name, " --help"));
  }
  if (!app.remaining().empty()) return UnknownArgument(app, row->name, app.remaining().front());
  SetVerbose(verbose);
  return RunVerb(*verb);
}

}  // namespace kompakt
