// experiments/tasks/kept_codes.h - a quantized matrix as arrays of a record, for cells that keep their codes.
#pragma once
#include <string>

#include "experiments/record.h"
#include "formats/quantize.h"

namespace fp4lab {

/// codes/NAME, scales/NAME, and where there are any zero_points/NAME and factors/NAME.
void keep_codes(Record& record, const std::string& name, const QuantizedMatrix& q);

}  // namespace fp4lab
