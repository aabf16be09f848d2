"""The formats of the specification in NumPy, from its text alone: plain tables, no speed, nothing shared with the program.

    coder = Coder({"element": "e2m1", "group_size": 16, "scale": "e4m3", "rule": "absmax", "tensor_scale": "dynamic"})
    q = coder.quantize(x)            # q.codes, q.scales, q.zeros, q.values, q.factors
    m = metrics(x, q, coder)

FP32 in the order the specification writes it; a search's errors are summed in FP64. Where the text leaves a choice, this file
follows the program: groups without energy do not count in `mse_top`; the outliers are ceil(p n) elements, the first of equal
ones; `clipped` compares with FP32 products, and for zero points with the values of the first and last code; s_T per token
counts in the bits; nf4 codes groups without a scale as 7, its zero; `even` has log2 of the top binade's steps as M for
integers; a sweep starts from the absmax code after `scale_floor`; `mse_shrink` shrinks amax; `alternate` stops by the error.
"""
from types import SimpleNamespace

import numpy as np

F = np.float32
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def minifloat(exponent_bits, mantissa_bits, bias, count):
    """The values of the codes 0..count-1 of an unsigned float with subnormals."""
    code = np.arange(count)
    e, m = code >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
    fraction = m / 2.0 ** mantissa_bits
    return np.where(e == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1 + fraction, e - bias))


def generic(x, y):  # all codes finite
    return minifloat(x, y, 2 ** (x - 1) - 1, 1 << (x + y))


# magnitudes by code, mantissa bits, code bits
FLOAT_ELEMENTS = {"e2m1": (np.array([0, .5, 1, 1.5, 2, 3, 4, 6]), 1, 4), "e2m3": (minifloat(2, 3, 1, 32), 3, 6),
                  "e3m2": (minifloat(3, 2, 3, 32), 2, 6), "e4m3": (minifloat(4, 3, 7, 127), 3, 8),
                  "e5m2": (minifloat(5, 2, 15, 124), 2, 8)}
BYTE_SCALES = {"e4m3": minifloat(4, 3, 7, 127), "e5m2": minifloat(5, 2, 15, 124), "ue5m3": minifloat(5, 3, 15, 255),
               "e1m6": generic(1, 6), "e2m5": generic(2, 5), "e3m4": generic(3, 4), "e6m1": generic(6, 1),
               "e7m0": generic(7, 0), "int8": np.arange(128.0)}
SCALE_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}


def to_table(v, table):
    """The code of the nearest value of an ascending table, ties to the even code, beyond it its last."""
    v = np.asarray(v, np.float64)
    middle = (table[1:] + table[:-1]) / 2
    code = np.searchsorted(middle, v, side="left")
    tie = (code < len(middle)) & (middle[np.minimum(code, len(middle) - 1)] == v)
    return code + (tie & (code % 2 == 1))


class Element:
    def __init__(self, name):
        self.name, self.asym, self.table = name, name.endswith("-asym"), None
        self.zero = 0  # the code in groups without a scale
        if name in FLOAT_ELEMENTS:
            self.table, self.mantissa, self.bits = FLOAT_ELEMENTS[name]
            self.max = self.table[-1]
        elif name == "nf4":
            self.levels, self.bits, self.max, self.mantissa, self.zero = np.array(NF4), 4, 1.0, None, 7
        else:
            self.bits = int(name[3])
            half = 2 ** (self.bits - 1)
            self.low, self.high, self.max = -half + 1, half - 1, half - 1.0
            if name.endswith("-full"):
                self.low, self.max = -half, half - 0.5
            if self.asym:
                self.low, self.high, self.max = 0, 2 * half - 1, 2 * half - 1.0
        self.emax = int(np.floor(np.log2(self.max)))
        if name.startswith("int"):
            self.mantissa = self.emax  # steps of 1 in the top binade

    def encode(self, y, zeros):
        if self.table is not None:
            return to_table(np.abs(y), self.table) | (np.signbit(y).astype(int) << (self.bits - 1))
        if self.name == "nf4":
            return to_table(y, self.levels)
        q = np.clip(np.rint(np.float64(y)) + zeros, self.low, self.high).astype(int)
        return q & (2 ** self.bits - 1)

    def decode(self, codes, zeros):
        if self.table is not None:
            half = 1 << (self.bits - 1)
            return np.where(codes >= half, -1.0, 1.0) * self.table[codes & (half - 1)]
        if self.name == "nf4":
            return self.levels[codes]
        if self.asym:
            return codes - zeros.astype(float)
        return np.where(codes > self.high, codes - 2 ** self.bits, codes).astype(float)


def encode_scale(v, kind):
    """The code of a positive FP32 number in a scale type: nearest, ties to even, saturating."""
    v = np.asarray(v, F)
    if kind in BYTE_SCALES:
        return to_table(v, BYTE_SCALES[kind])
    if kind == "fp16":
        return np.minimum(v, F(65504)).astype(np.float16).view(np.uint16).astype(np.int64)
    bits = np.minimum(v, np.finfo(F).max).view(np.uint32).astype(np.int64)
    if kind == "bf16":
        return np.minimum((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7F7F)
    return bits


def decode_scale(codes, kind):
    if kind == "ue8m0":
        return np.ldexp(1.0, codes - 127).astype(F)
    if kind in BYTE_SCALES:
        return BYTE_SCALES[kind][codes].astype(F)
    if kind == "fp16":
        return codes.astype(np.uint16).view(np.float16).astype(F)
    return (codes.astype(np.uint32) << np.uint32(16 if kind == "bf16" else 0)).view(F)


def floor_log2(v):
    """Exact, of positive numbers (FP64 holds every FP32 number as a normal one)."""
    return np.frexp(np.asarray(v, np.float64))[1] - 1


def ceil_log2(v):
    fraction, exponent = np.frexp(np.asarray(v, np.float64))
    return exponent - (fraction == 0.5)


class Coder:
    def __init__(self, spec):
        self.element, self.group, self.scale = Element(spec["element"]), spec["group_size"], spec["scale"]
        rule = spec["rule"]
        self.rule = rule if isinstance(rule, dict) else {"type": rule}
        self.type = self.rule["type"]
        self.tensor_scale, self.floor = spec.get("tensor_scale", "none"), spec.get("scale_floor", "none")

    def groups(self, x):
        return x.reshape(len(x), -1, x.shape[1] if self.group == "row" else self.group)

    def scale_max(self):
        return 256.0 if self.type == "four_over_six" else BYTE_SCALES[self.scale][-1]

    def factor(self, x):
        """s_T: one number, or one per row (rows, 1); 1 where there is none."""
        if self.type == "fpq":
            return F(2) / F(self.element.max)
        if isinstance(self.tensor_scale, dict):
            return F(self.tensor_scale["static"])
        if self.tensor_scale == "none":
            return F(1)
        m = np.abs(x).max(axis=1, keepdims=True) if self.tensor_scale == "per_token" else np.abs(x).max()
        return np.where(m > 0, m / F(self.scale_max() * self.element.max), F(1)).astype(F)

    def power_of_two(self, m, x):
        """The exponents that an E8M0 rule tries, each (rows, groups); m > 0 where it matters."""
        m, c, top = np.float64(m), float(self.rule.get("c", 3.6)), self.element.max
        f = floor_log2(m) - self.element.emax
        if self.type == "floor":
            return [f]
        if self.type == "fpq":
            return [floor_log2(m)]
        if self.type == "even":
            return [f + (np.ldexp(m, -floor_log2(m)) >= 2 - 2.0 ** -(self.element.mantissa + 1))]
        if self.type == "ceil":
            k = floor_log2(m) - self.element.emax - 1
            return [k + sum(np.ldexp(top, k + i) < m for i in range(3))]  # exact: the least k with top 2^k >= m
        if self.type == "ceil_pow2":
            return [ceil_log2(m) - self.element.emax]
        if self.type == "map":
            k = floor_log2(m) - floor_log2(c)
            return [k - (np.ldexp(c, k) > m)]
        if self.type == "nearest":  # least k with m / top < 2^(k + 1/2), squared
            k = floor_log2(m) - self.element.emax - 2
            mantissa = np.ldexp(m, -k)
            return [k + sum(mantissa ** 2 >= 2 * top ** 2 * 4.0 ** i for i in range(5))]
        if self.type == "quest":
            return [floor_log2(2.92247856 / 6 * np.std(np.float64(self.groups(x)), axis=2) + 1e-8)]
        if self.type == "search":
            steps = [0] + [s for i in range(1, 9) for s in (i, -i)]  # f, 2f, f/2, 4f, ...
            return [f + s for s in steps[:self.rule.get("k", 2)]]
        raise ValueError(self.type)

    def candidates(self, x, factor, shrink=F(1)):
        """The scale codes that the rule tries, a list of (rows, groups)."""
        g = self.groups(x)
        m = np.abs(g).max(axis=2) * shrink
        if self.scale == "ue8m0":
            safe = np.where(m > 0, m, F(1))
            tried = [np.clip(k + 127, 0, 254) for k in self.power_of_two(safe, x)]
        elif self.element.asym:
            span = np.maximum(g.max(axis=2), F(0)) - np.minimum(g.min(axis=2), F(0))
            return [encode_scale(span / F(self.element.max), self.scale)]
        else:
            tops = (6, 4) if self.type == "four_over_six" else (self.element.max,)
            with np.errstate(all="ignore"):  # s_T of a tensor of subnormals may be 0
                tried = [encode_scale(self.over(m, F(t) * factor), self.scale) for t in tops]
            least = {"none": 0, "min_subnormal": 1, "min_normal": 8}[self.floor]  # codes of e4m3
            tried = [np.maximum(t, least) for t in tried]
            if self.type == "sweep":
                tried = [np.clip(tried[0] + i, max(1, least), 126)
                         for i in range(self.rule.get("lo", -3), self.rule.get("hi", 7) + 1)]
        return [np.where(m > 0, t, 0) for t in tried]

    def over(self, m, divisor):
        """m / divisor; a full integer grid under a wide float scale multiplies by the reciprocal, as the peers do."""
        wide_full = self.element.name.endswith("-full") and self.scale in ("fp32", "fp16", "bf16")
        wide_full = wide_full and self.tensor_scale == "none"
        return m * (F(1) / F(self.element.max)) if wide_full else m / divisor

    def fitted(self, x):
        """Codes, a and b of the rule `fitted`; a and b are stored in FP32."""
        s = np.float64(np.abs(self.groups(x)).max(axis=2) / F(self.element.max))
        live = s > 0
        if not live.any():
            return np.zeros(s.shape, int), 0.0, 0.0
        low, high = np.log2(s[live].min()), np.log2(s[live].max())
        a = (high - low) / 255
        q = 255 * (np.log2(np.where(live, s, 1)) - low) / (high - low) if a else np.zeros(s.shape)
        return np.where(live, np.clip(np.rint(q), 0, 255), 0).astype(int), F(a), F(low)

    def effective(self, scales, factor):
        """s by group; `factor`: s_T, or (a, b) if fitted."""
        if self.type == "fitted":
            return np.exp2(factor[0] * scales + factor[1]).astype(F)
        return (factor * decode_scale(scales, self.scale)).astype(F)

    def round_to(self, g, s):
        """Codes, zero points and values of groups g on effective scales s; all zero where s is."""
        s = s[:, :, None]
        live, divisor, zeros = s > 0, np.where(s > 0, s, F(1)), np.zeros(s.shape)
        if self.element.asym:
            low = np.minimum(g.min(axis=2, keepdims=True), F(0))
            zeros = np.clip(np.rint(np.float64(-low / divisor)), 0, self.element.high) * live
        codes = np.where(live, self.element.encode(g / divisor, zeros), self.element.zero)
        return codes, zeros, self.values(codes, zeros, s)

    def values(self, codes, zeros, s):
        return np.where(s > 0, s * self.element.decode(codes, zeros).astype(F), F(0)).astype(F)

    def apply(self, x, scales, factor):
        g = self.groups(x)
        with np.errstate(all="ignore"):
            s = np.where(np.abs(g).max(axis=2) > 0, self.effective(scales, factor), F(0))
            codes, zeros, values = self.round_to(g, s)
        return SimpleNamespace(codes=codes.reshape(x.shape), values=values.reshape(x.shape), scales=scales, s=s,
                               zeros=zeros[:, :, 0].astype(int), factors=factor)

    def errors(self, x, q):
        return np.sum((np.float64(self.groups(x)) - self.groups(q.values)) ** 2, axis=2)

    def quantize(self, x):
        if self.type == "fitted":
            scales, a, b = self.fitted(x)
            return self.apply(x, scales, (a, b))
        factor = self.factor(x)
        tried = self.candidates(x, factor)
        if len(tried) == 1:
            return self.apply(x, tried[0], factor)
        errors = np.stack([self.errors(x, self.apply(x, t, factor)) for t in tried])
        tried = np.stack(tried)
        best = np.where(errors == errors.min(axis=0), tried, tried.max() + 1).min(axis=0)  # equal: the smaller scale
        return self.apply(x, best, factor)

    def shrunk(self, x):
        """`mse_shrink`: the scale codes of the 100 shrunk ranges and the errors of their unrounded scales."""
        g, factor = self.groups(x), self.factor(x)
        m = np.abs(g).max(axis=2)
        codes, errors = [], []
        for i in range(100):
            shrink = F(1 - 0.008 * i)
            values = self.round_to(g, self.over(m, F(self.element.max)) * shrink)[2]
            errors.append(np.sum(np.abs(np.float64(g) - values) ** 2.4, axis=2))
            codes.append(self.candidates(x, factor, shrink)[0])
        return np.stack(codes), np.stack(errors)

    def best_of_all(self, x, factor):
        """The best of all scale codes but 0, and its error, for 8-bit scales."""
        shape = self.groups(x).shape[:2]
        errors = np.stack([self.errors(x, self.apply(x, np.full(shape, k), factor))
                           for k in range(1, len(BYTE_SCALES[self.scale]))])
        return errors.argmin(axis=0) + 1, errors

    def alternate(self, x):
        """`alternate`: the tensor scales it goes through and the errors there, each with the best group scales."""
        factor, steps = self.factor(x), []
        while len(steps) < 15:
            scales, errors = self.best_of_all(x, factor)
            steps.append((factor, errors.min(axis=0).sum()))
            if len(steps) > 1 and steps[-1][1] > (1 - 1e-3) * steps[-2][1]:
                break
            q = self.apply(x, scales, factor)
            v = self.element.decode(self.groups(q.codes), 0) * np.float64(decode_scale(scales, self.scale))[:, :, None]
            energy = np.sum(v * v)
            factor = F(np.sum(self.groups(x) * v) / energy) if energy else factor
        return steps

    def bits(self, columns):
        group = columns if self.group == "row" else self.group
        scale = 8 * SCALE_BYTES.get(self.scale, 1)
        token = 32 / columns if self.tensor_scale == "per_token" else 0
        return self.element.bits + (scale + (self.element.bits if self.element.asym else 0)) / group + token


def metrics(x, q, coder, outlier_share=0.001):
    g, v = np.float64(coder.groups(x)), np.float64(coder.groups(q.values))
    error, size = (g - v) ** 2, np.abs(g)
    energy, total = np.sum(g ** 2, axis=2), np.sum(g ** 2)
    live = energy > 0
    top = size.argmax(axis=2)[:, :, None]
    top_error = np.take_along_axis(error, top, 2)[:, :, 0]
    top_size = np.take_along_axis(size, top, 2)[:, :, 0]
    order = np.argsort(-size.ravel(), kind="stable")[:max(1, int(np.ceil(outlier_share * x.size)))]
    outlier, outlier_error = size.ravel()[order], np.abs(g - v).ravel()[order]
    relative = error.sum() / total
    clipped = size > F(coder.element.max) * q.s[:, :, None]
    if coder.element.asym:  # beyond the values of the first and the last code
        z = q.zeros[:, :, None]
        clipped = (g < F(-z) * q.s[:, :, None]) | (g > F(coder.element.max - z) * q.s[:, :, None])
    return {
        "mse": error.mean(), "mse_rel": np.mean(error.sum(axis=2)[live] / energy[live]), "mse_rel_tensor": relative,
        "mse_top": top_error[live].mean(), "mse_top_rel": np.mean(top_error[live] / top_size[live] ** 2),
        "outlier_mape": np.mean(outlier_error / outlier), "outlier_mse_rel": np.mean((outlier_error / outlier) ** 2),
        "qsnr_db": -10 * np.log10(relative) if relative else np.inf,
        "dead_zone_share": np.sum((v == 0) & (g != 0)) / np.sum(g != 0),
        "clipped_share": clipped.mean(), "overflow_share": clipped.any(axis=2).mean(),
        "crest_factor": np.mean(top_size[live] / np.sqrt(energy[live] / g.shape[2])),
        "zero_group_share": np.mean(~live), "bits_per_element": coder.bits(x.shape[1]),
    }
