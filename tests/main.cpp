// The test program's main, an object of its own: Catch2 version 2 takes 18 s to compile here.
#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif
#include <csignal>

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // as the program does: a file limit is an error to report, not a death
  return Catch::Session().run(argc, argv);
}
