// methods/transforms/random_orthogonal.h - blocks of k channels times a random orthogonal matrix each, every
// one equally likely (Haar measure). What is special about a Hadamard is what this one lacks.
//   The orthogonal factor of a Gaussian matrix whose R has a positive diagonal is Haar distributed; here it
//   is drawn directly as the product of its Householder reflections, each by a Gaussian vector one shorter
//   than the one before, and signs (Stewart, SIAM J. Numer. Anal. 17, 1980): half the work of a QR, and in a
//   fixed order, so that a seed gives one matrix on any machine.
//   cost    O(K k^2) to draw (k = K = 4096: 26 s on 2 busy cores), O(K k) per row, K k numbers
#pragma once
#include "methods/transforms/transform.h"

namespace fp4lab {

TransformSpec read_random_orthogonal(Params& p);
void write_random_orthogonal(const TransformSpec& spec, Json& object);
/// k (0: the format's group size) from 2, a divisor of the channels; or "full".
std::string random_orthogonal_problem(const TransformSpec& spec, const TransformFit& fit);
/// One BlocksFactor, drawn and multiplied in double; a draw of its own for every block and place in the list.
void fit_random_orthogonal(const TransformSpec& spec, const TransformInput& input, LinearMap& map);

}  // namespace fp4lab
