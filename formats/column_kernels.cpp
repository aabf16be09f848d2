#include "formats/column_kernels.h"

#include "formats/row_kernels.h"

namespace fp4lab {

namespace v3 {
extern const ColumnKernels kColumnKernels;
}
namespace v4 {
extern const ColumnKernels kColumnKernels;
}

const ColumnKernels& column_kernels_v3() { return v3::kColumnKernels; }
const ColumnKernels* column_kernels_v4() { return row_kernels_v4() ? &v4::kColumnKernels : nullptr; }

const ColumnKernels& column_kernels() {
  // The row kernels' choice, so that FP4LAB_ISA speaks for the whole program.
  return &row_kernels() == row_kernels_v4() ? v4::kColumnKernels : v3::kColumnKernels;
}

}  // namespace fp4lab
