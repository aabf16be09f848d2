// fp4lab - the program. Everything it does is in experiments/cli.
#include "experiments/cli/cli.h"

int main(int argc, char** argv) { return fp4lab::run_cli(argc, argv); }
