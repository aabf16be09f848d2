// experiments/record.h - what one cell found: named scalars, texts and arrays, each with its unit and its
// equation.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace fp4lab {

/// What every stored number says about itself.
struct Meaning {
  std::string units;            // "1" for a ratio, "dB", "bits", "s", "bytes"
  std::string source_equation;  // "mean_g sum (x-x^)^2 / sum x^2"
};

struct Record {
  struct Scalar {
    std::string name;
    double value;  // NaN = not measured
    Meaning meaning;
  };
  struct Text {
    std::string name, value;
  };
  struct Array {
    std::string name;
    std::vector<double> values;  // row-major
    std::vector<int64_t> shape;
    std::string shape_of;  // "(tensors)", "(tensors, bins)"
    Meaning meaning;
  };
  struct TextArray {
    std::string name;
    std::vector<std::string> values;
    std::string shape_of;
  };
  struct Bytes {  // codes and scales, kept on request
    std::string name;
    std::vector<uint8_t> values;
    std::vector<int64_t> shape;
    std::string shape_of;
  };
  std::vector<Scalar> scalars;  // columns of /table
  std::vector<Text> texts;      // text columns of /table: digests, names
  std::vector<Array> arrays;    // datasets of /cells/<key>
  std::vector<TextArray> text_arrays;
  std::vector<Bytes> bytes;
};

}  // namespace fp4lab
