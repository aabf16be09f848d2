// methods/transforms/trigonometric.h - orthonormal cosine and sine transforms of blocks of k channels, type
// II (x becomes x T, entry (n, j) of T below), one dense matrix for all blocks:
//   dct  c_j cos(pi (2 n + 1) j / (2 k)),        c_0 = sqrt(1 / k),      the others sqrt(2 / k)
//   dst  c_j sin(pi (2 n + 1) (j + 1) / (2 k)),  c_{k-1} = sqrt(1 / k),  the others sqrt(2 / k)
//   The columns of the DCT-II are eigenvectors of a symmetric second difference with different eigenvalues:
//   orthogonal. sin(pi (2 n + 1) (j + 1) / (2 k)) = (-1)^n cos(pi (2 n + 1) (k - 1 - j) / (2 k)), so that the
//   DST-II is the DCT-II of channels with alternating signs, its coordinates in reverse: orthogonal as well.
//   cost    O(K k) per row, k^2 numbers
//   source  Ahmed, Natarajan and Rao, IEEE Trans. Computers C-23 (1974); compared with Hadamards in
//           arXiv 2509.23202
#pragma once
#include "methods/transforms/transform.h"

namespace fp4lab {

TransformSpec read_dct(Params& p);
TransformSpec read_dst(Params& p);
void write_trigonometric(const TransformSpec& spec, Json& object);
/// k (0: the format's group size) from 2, a divisor of the channels; or "full".
std::string trigonometric_problem(const TransformSpec& spec, const TransformFit& fit);
/// One BlocksFactor, computed in double.
void fit_trigonometric(const TransformSpec& spec, const TransformInput& input, LinearMap& map);

}  // namespace fp4lab
