#include "kernels/codec_digest.h"

#include "tests/catch.h"

using namespace fp4lab;

TEST_CASE("codec digests: the sum does not depend on how the range is cut, and sees a single difference",
          "[kernels]") {
  const uint64_t end = 1u << 20;
  CHECK(element_digest_cpu(kE2M1, 0, end) ==
        element_digest_cpu(kE2M1, 0, 12345) + element_digest_cpu(kE2M1, 12345, end));
  // Two codecs that differ only in which code 7 saturates to.
  const uint64_t six = float_bits(6.0f), eight = float_bits(8.0f);
  CHECK(element_digest_cpu(kE2M1, six, eight) != element_digest_cpu(*find_element("e2m3"), six, eight));
}

TEST_CASE("a GPU encodes and decodes every float as the CPU does", "[kernels][cuda][slow]") {
  if (cuda_devices() == 0) FP4LAB_SKIP("no CUDA device, or built without CUDA");
  for (const Element& e : kElements) {
    INFO(e.name);
    CHECK(element_digest_cuda(e, 0, 1ull << 32) == element_digest_cpu(e, 0, 1ull << 32));
  }
  for (const ScaleType& t : kScaleTypes) {
    INFO(t.name);
    CHECK(scale_digest_cuda(t, 0, 1ull << 31) == scale_digest_cpu(t, 0, 1ull << 31));
  }
}
