// core/matrix.h - matrices that own and views that do not. Row-major, sizes in elements, int64_t.
#pragma once
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "core/errors.h"
#include "core/half.h"

namespace fp4lab {

/// Non-owning, row-major: (r, c) is data[r * stride + c]. T is float, double, bf16, f16, uint8_t, const or
/// not.
template <class T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;  // stride in elements

  FP4LAB_HD T& operator()(int64_t r, int64_t c) const { return data[r * stride + c]; }
  FP4LAB_HD T* row(int64_t r) const { return data + r * stride; }
  FP4LAB_HD int64_t size() const { return rows * cols; }
  /// Rows [begin, begin + count).
  FP4LAB_HD MatrixView middle_rows(int64_t begin, int64_t count) const {
    return {data + begin * stride, count, cols, stride};
  }
  operator MatrixView<const T>() const { return {data, rows, cols, stride}; }
};

/// Owns rows * cols elements, 64-byte aligned, dense (stride = cols). Moves, does not copy by accident:
/// `clone` says so. New elements are not initialized; std::bad_alloc when memory is short.
template <class T>
class MatrixOf {
 public:
  MatrixOf() = default;
  MatrixOf(int64_t rows, int64_t cols) : rows_(rows), cols_(cols) {
    FP4LAB_CHECK(rows >= 0 && cols >= 0 && (cols == 0 || rows <= INT64_MAX / 16 / cols), rows, " x ", cols);
    const size_t bytes = (size_t(rows) * size_t(cols) * sizeof(T) + 63) / 64 * 64;
    if (bytes == 0) return;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
  }
  static MatrixOf zeros(int64_t rows, int64_t cols) {
    MatrixOf m(rows, cols);
    for (int64_t i = 0; i < m.size(); ++i) m.data()[i] = T{};
    return m;
  }
  MatrixOf clone() const {
    MatrixOf m(rows_, cols_);
    for (int64_t i = 0; i < size(); ++i) m.data()[i] = data()[i];
    return m;
  }

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t size() const { return rows_ * cols_; }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T* row(int64_t r) { return data() + r * cols_; }
  const T* row(int64_t r) const { return data() + r * cols_; }
  T& operator()(int64_t r, int64_t c) { return data()[r * cols_ + c]; }
  const T& operator()(int64_t r, int64_t c) const { return data()[r * cols_ + c]; }
  MatrixView<T> view() { return {data(), rows_, cols_, cols_}; }
  MatrixView<const T> view() const { return {data(), rows_, cols_, cols_}; }
  operator MatrixView<T>() { return view(); }
  operator MatrixView<const T>() const { return view(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t rows_ = 0, cols_ = 0;
};

using Matrix = MatrixOf<float>;
using MatrixD = MatrixOf<double>;

}  // namespace fp4lab
