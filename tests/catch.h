// tests/catch.h - Catch2 version 2 (Debian 12) and version 3 (Ubuntu 24.04) under one include, and a skip for
// both.
#pragma once
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#define FP4LAB_CATCH2_V3 1
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif
#include <cstdio>

/// Leaves the test with a reason; ctest reads the mark and reports the test as skipped.
#define FP4LAB_SKIP(reason)                                            \
  do {                                                                 \
    std::printf("[fp4lab-skipped] %s\n", std::string(reason).c_str()); \
    return;                                                            \
  } while (0)
