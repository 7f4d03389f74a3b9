#include "tools/verb.h"

int main(int argc, char** argv) { return kompakt::RunCommandLine(argc, argv); }
