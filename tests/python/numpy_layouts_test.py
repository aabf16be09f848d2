"""The decoders of numpy_layouts.py on bytes typed here and, with `ml_dtypes`, their tables against that package's types.

    python3 tests/python/numpy_layouts_test.py
"""
import unittest

import numpy as np

from numpy_layouts import DECODERS, E2M1, E4M3, E8M0, Tensor, bfloat16

try:
    import ml_dtypes
    NO_ML_DTYPES = ""
except Exception as error:  # not installed, or built for another NumPy
    NO_ML_DTYPES = f"comparison with ml_dtypes left out: {error}"

CT_NV, CT_MX, CT_INT, FPQ, MODELOPT = DECODERS


class Tables(unittest.TestCase):
    """The decoders themselves, on bytes typed here."""

    def tensors(self, **given):
        return {"x." + name: Tensor(dtype, shape, bytes(data)) for name, (dtype, shape, data) in given.items()}

    def test_fp4(self):
        packed = {"dtype": "U8", "data": [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]}
        codes = ("U8", (1, 8), packed["data"])
        values = [0, .5, 1, 1.5, 2, 3, 4, 6, 0, -.5, -1, -1.5, -2, -3, -4, -6]
        four = np.float32(4).tobytes()
        q = DECODERS[CT_NV](self.tensors(weight_packed=codes, weight_scale=("F8_E4M3", (1, 1), [0x40]),
                                         weight_global_scale=("F32", (1,), four)), "x")
        self.assertEqual(q.codes.tolist(), [list(range(16))])
        self.assertEqual(q.values.tolist(), [[v / 2 for v in values]])  # 2 / 4
        q = DECODERS[MODELOPT](self.tensors(weight=codes, weight_scale=("F8_E4M3", (1, 1), [0x40]),
                                            weight_scale_2=("F32", (1,), four)), "x")
        self.assertEqual(q.values.tolist(), [[v * 8 for v in values]])
        q = DECODERS[CT_MX](self.tensors(weight_packed=codes, weight_scale=("U8", (1, 1), [130])), "x")
        self.assertEqual(q.values.tolist(), [[v * 8 for v in values]])
        for dtype, byte, value in (("mxfp4", 129, 1), ("nvfp4", 0x38, .25)):
            q = DECODERS[FPQ](self.tensors(qweight=codes, scales=("U8", (1, 1), [byte]),
                                           weight_global_scale=("F32", (1,), four)), "x", {"forward_dtype": dtype})
            self.assertEqual(q.values.tolist(), [[v * value for v in values]])

    def test_int4(self):
        given = dict(weight_packed=("I32", (1, 2), [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]),
                     weight_shape=("I64", (2,), np.array([1, 16]).tobytes()))
        for dtype, bits in (("BF16", 0x3F00), ("F16", 0x3800)):
            scale = (dtype, (1, 1), bits.to_bytes(2, "little"))
            q = DECODERS[CT_INT](self.tensors(weight_scale=scale, **given), "x")
            self.assertEqual(q.values.tolist(), [[v / 2 for v in range(-8, 8)]])

    def test_scales(self):
        """Values of the standards' tables."""
        for byte, value in ((0, 0), (1, 2 ** -9), (7, 7 * 2 ** -9), (8, 2 ** -6), (0x38, 1), (0x7E, 448), (0xFE, -448)):
            self.assertEqual(E4M3[byte], value)
        self.assertEqual(np.flatnonzero(np.isnan(E4M3)).tolist(), [0x7F, 0xFF])
        self.assertEqual((E8M0[0], E8M0[127], E8M0[254]), (2 ** -127, 1, 2 ** 127))

    def test_of_ml_dtypes(self):
        if NO_ML_DTYPES:
            print(NO_ML_DTYPES)
            self.skipTest(NO_ML_DTYPES)
        def same(table, bits, dtype):
            np.testing.assert_array_equal(table.view("u4"), bits.view(dtype).astype(np.float32).view("u4"))
        same(E2M1, np.arange(16, dtype=np.uint8), ml_dtypes.float4_e2m1fn)
        every = np.arange(256, dtype=np.uint8)
        numbers = np.delete(every, [0x7F, 0xFF])
        same(E4M3[numbers], numbers, ml_dtypes.float8_e4m3fn)
        same(E8M0[:255], every[:255], ml_dtypes.float8_e8m0fnu)
        self.assertTrue(np.isnan(np.array([0x7F, 0xFF], "u1").view(ml_dtypes.float8_e4m3fn).astype("f4")).all())
        every = np.arange(1 << 16, dtype=np.uint16)
        every = every[~np.isnan(bfloat16(every))]
        same(bfloat16(every), every, ml_dtypes.bfloat16)


if __name__ == "__main__":
    unittest.main(argv=["numpy_layouts_test"])
