// The column kernels for x86-64-v4 (CMake adds the flags).
#define FP4LAB_VECTOR 16
#define FP4LAB_ISA_NAMESPACE v4
#define FP4LAB_ISA_NAME "x86-64-v4"
#include "formats/column_kernels.inc"
