"""The program that turns text into a corpus: what it writes, read back byte by byte, and its refusals.

Tests that tokenize are skipped without the package `tokenizers`.
Run as: python3 tokenize_test.py
"""
import hashlib
import importlib.util
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.join(ROOT, "experiments", "tools", "tokenize.py")
TOKENIZER = os.path.join(ROOT, "experiments", "data", "tiny-llama", "tokenizer.json")
HAS_TOKENIZERS = importlib.util.find_spec("tokenizers") is not None
FORMATS = {"U16": "H", "U32": "I", "I32": "i"}


def read_tokens(path):
    """(dtype, ids, metadata) of a safetensors file with one stream `tokens`."""
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata, tokens = header.pop("__metadata__"), header.pop("tokens")
    assert not header and (8 + length) % 8 == 0
    count, size = tokens["shape"][0], int(tokens["dtype"][1:]) // 8
    assert tokens == {"dtype": tokens["dtype"], "shape": [count], "data_offsets": [0, count * size]}
    assert len(data) == 8 + length + count * size
    return tokens["dtype"], list(struct.unpack(f"<{count}{FORMATS[tokens['dtype']]}", data[8 + length :])), metadata


def text_of(ids):
    """The text of byte-level BPE tokens, from the vocabulary alone."""
    with open(TOKENIZER, encoding="utf-8") as file:
        names = {number: name for name, number in json.load(file)["model"]["vocab"].items()}
    # GPT-2's alphabet: printable bytes stand for themselves, the others for 256 and up, in order.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(b): b for b in plain}
    byte_of.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in plain)})
    return bytes(byte_of[c] for number in ids for c in names[number]).decode()


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="fp4lab_test_")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.out = self.path("out.safetensors")

    def path(self, name):
        return os.path.join(self.folder, name)

    def put(self, name, text):
        with open(self.path(name), "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        return self.path(name)

    def run_program(self, *arguments, python=()):
        command = [sys.executable, *python, PROGRAM, *arguments]
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)

    def good(self, *arguments):
        done = self.run_program(*arguments, "--out", self.out)
        self.assertEqual((done.returncode, ""), (0, done.stderr))
        return done.stdout

    def refused(self, code, says, *arguments, out=None):
        done = self.run_program(*arguments, "--out", out or self.out)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(says, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertFalse([name for name in os.listdir(self.folder) if "safetensors" in name])


class Ids(Folder):
    def test_written_as_given(self):
        for dtype, largest in (("U16", 65535), ("U32", 65536), ("U32", 2**32 - 1)):
            printed = self.good("--ids", self.put("ids.txt", f"0 7\n{largest}\t3\n"))
            self.assertEqual(read_tokens(self.out), (dtype, [0, 7, largest, 3], {"kind": "evaluation", "source": "ids.txt"}))
            self.assertIn(f"out.safetensors: 4 tokens ({dtype}), ids as given, 0 windows of 2048 and 4 tokens left", printed)

    def test_windows_and_options(self):
        ids = self.put("ids.txt", " ".join(str(i % 100) for i in range(2 * 2048 + 5)))
        printed = self.good("--ids", ids, "--dtype", "I32", "--kind", "calibration", "--source", "counted")
        dtype, read, metadata = read_tokens(self.out)
        self.assertEqual((dtype, metadata), ("I32", {"kind": "calibration", "source": "counted"}))
        self.assertEqual(read, [i % 100 for i in range(2 * 2048 + 5)])
        self.assertIn("2 windows of 2048 and 5 tokens left over", printed)

    def test_refusals(self):
        ids = self.put("ids.txt", "1 2 70000")
        self.refused(1, "id 70000 at index 2 does not fit U16 (0..65535)", "--ids", ids, "--dtype", "U16")
        self.refused(1, "id -1 at index 0 does not fit U16", "--ids", self.put("n.txt", "-1"))
        self.refused(1, "n.txt: expected integers, found 'x' at index 1", "--ids", self.put("n.txt", "1 x"))
        self.refused(1, "no tokens to write", "--ids", self.put("n.txt", "\n"))
        self.refused(1, "n.txt: is not UTF-8: byte 2", "--ids", self.put("n.txt", b"1 \xff"))
        self.refused(1, "none.txt: cannot read: No such file", "--ids", self.path("none.txt"))
        self.refused(1, "cannot write: No such file", "--ids", ids, out=self.path("none/x.safetensors"))
        self.refused(2, "ends in .safetensors", "--ids", ids, out=self.path("x.npy"))
        self.refused(2, "give one of")
        self.refused(2, "give one of", "--ids", ids, ids)
        self.refused(2, "texts need --tokenizer", ids)
        self.refused(2, "--prepare and --raw go together", "--tokenizer", TOKENIZER, "--prepare", "wikitext2")
        self.refused(2, "--bos and --no-bos are for texts", "--ids", ids, "--no-bos")

    def test_missing_package(self):
        # -S: no site-packages, where the package would be.
        done = self.run_program("--tokenizer", TOKENIZER, self.put("t.txt", "a"), "--out", self.out, python=["-S"])
        self.assertEqual((done.returncode, done.stderr), (1, "tokenize.py: tokenizing needs a package: pip install tokenizers\n"))


@unittest.skipUnless(HAS_TOKENIZERS, "needs the package tokenizers")
class Texts(Folder):
    def tokens(self, *arguments):
        self.good("--tokenizer", TOKENIZER, *arguments)
        return read_tokens(self.out)[1]

    def test_documents(self):
        first, second = "Hello world.\nThe cat <sat>\u2028 on the mat é.\n", "A second one."
        a, b = self.put("a.txt", first), self.put("b.txt", second)
        ids = self.tokens(a, b, "--bos", "0")
        self.assertEqual(ids.count(0), 2)
        cut = ids.index(0, 1)
        self.assertEqual((ids[0], text_of(ids[1:cut]), text_of(ids[cut + 1 :])), (0, first, second))
        self.assertLess(len(ids), 30)  # words, not bytes
        self.assertEqual(self.tokens(a, b, "--no-bos"), ids[1:cut] + ids[cut + 1 :])
        dtype, _, metadata = read_tokens(self.out)
        with open(TOKENIZER, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        self.assertEqual(dtype, "U16")
        self.assertEqual(metadata, {"kind": "evaluation", "tokenizer": "tokenizer.json", "tokenizer_sha256": digest,
                                    "source": "a.txt, b.txt"})
        self.refused_bos(a)

    def refused_bos(self, text):
        os.remove(self.out)
        self.refused(1, "--bos 8192 is outside its vocabulary, 0..8191", "--tokenizer", TOKENIZER, text, "--bos", "8192")

    def test_no_special_tokens_of_its_own(self):
        done = self.run_program("--tokenizer", TOKENIZER, self.put("a.txt", "A cat."), "--out", self.out)
        self.assertEqual(done.returncode, 0)
        self.assertIn("adds no special tokens; --bos ID puts one first", done.stderr)
        self.assertEqual(text_of(read_tokens(self.out)[1]), "A cat.")

    def word_tokenizer(self, **keys):
        """Words by white space; BOS (1) first by its post-processor, <unk> is 0."""
        single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        post = {"type": "TemplateProcessing", "single": single, "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
        whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": post, "decoder": None,
                 "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "<s>": 1, "cat": 2, "dog": 3}, "unk_token": "<unk>"}}
        return self.put("words.json", json.dumps({**whole, **keys}))

    def test_special_tokens_and_unknown_share(self):
        text = self.put("a.txt", "cat dog bird\ncat")
        printed = self.good("--tokenizer", self.word_tokenizer(), text)
        self.assertEqual(read_tokens(self.out)[1], [1, 2, 3, 0, 2])
        self.assertIn("5 tokens (U16), 20 % unknown", printed)
        self.good("--tokenizer", self.word_tokenizer(), text, "--bos", "3")
        self.assertEqual(read_tokens(self.out)[1], [3, 2, 3, 0, 2])

    def test_truncation_and_padding_of_the_tokenizer_are_off(self):
        cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
        fill = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
                "pad_token": "<unk>"}
        words = self.word_tokenizer(truncation=cut, padding=fill)
        self.good("--tokenizer", words, self.put("a.txt", "cat dog cat dog"))
        self.assertEqual(read_tokens(self.out)[1], [1, 2, 3, 2, 3])

    def test_wikitext(self):
        # Rows " \n", " = Cat = \n", ...; blank ones become "", all are joined by "\n\n", BOS is first and only once.
        raw = self.put("wiki.test.raw", " \n = Cat = \n \n A cat\u2028 is . \n")
        self.tokens("--prepare", "wikitext2", "--raw", raw, "--bos", "0")
        _, ids, metadata = read_tokens(self.out)
        self.assertEqual(ids[0], 0)
        self.assertEqual(text_of(ids[1:]), "\n\n = Cat = \n\n\n\n\n A cat\u2028 is . \n")
        self.assertEqual(metadata["source"], "WikiText-2 raw, test split (wiki.test.raw), rows joined by blank lines")

    def test_broken_tokenizer(self):
        self.refused(1, "t.json: is not a tokenizer.json", "--tokenizer", self.put("t.json", "{}"), self.put("a.txt", "a"))


if __name__ == "__main__":
    unittest.main()
