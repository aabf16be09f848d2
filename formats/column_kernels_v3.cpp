// The column kernels for x86-64-v3.
#define FP4LAB_VECTOR 8
#define FP4LAB_ISA_NAMESPACE v3
#define FP4LAB_ISA_NAME "x86-64-v3"
#include "formats/column_kernels.inc"
