// methods/rotation/rotation_spec.h - a rotation of a whole model as a value (SPEC section 4, QuaRot).
#pragma once
#include <cstdint>

namespace fp4lab {

struct RotationSpec {
  enum Kind : uint8_t {
    none,
    hadamard  // R1: randomized Hadamard of the full width on the residual stream; R2: Hadamard of each head
              // of v
  } kind = none;
  bool heads = true;  // R2 too

  bool operator==(const RotationSpec&) const = default;
};

}  // namespace fp4lab
