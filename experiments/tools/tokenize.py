#!/usr/bin/env python3
"""Turns text into a corpus of fp4lab: a safetensors file with one stream of token ids, the tensor `tokens`.

  tokenize.py --tokenizer model/tokenizer.json book1.txt book2.txt --out corpus.safetensors
  tokenize.py --tokenizer model/tokenizer.json --prepare wikitext2 --raw wiki.test.raw --out wikitext2.safetensors
  tokenize.py --ids ids.txt --out corpus.safetensors

Each TEXT (UTF-8) is one document, tokenized whole. What stands before it is the tokenizer's own special tokens
(its post-processor: Llama 3 puts BOS first), or with --bos ID that id, or with --no-bos nothing. Tokenizing
needs the Python package `tokenizers`; --ids, plain integers between white space, needs nothing.

--prepare wikitext2 is the perplexity protocol of GPTQ, which the MR-GPTQ paper follows: the test split of
WikiText-2 raw, its rows joined by "\\n\\n", tokenized as one stream with BOS first, windows of 2048 tokens, the
tail that fills no window dropped (fp4lab cuts the windows: "length": 2048). The program downloads nothing: give
the split with --raw, as wiki.test.raw or as the parquet file (package pyarrow) of the data set "wikitext",
configuration "wikitext-2-raw-v1", that Salesforce publishes. The variant without "raw" has <unk> in place of
rare words and gives other perplexities.
"""
import os
import sys

# The folder of a script is searched first, and there this file would pass for the standard library's `tokenize`.
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or ".") != _HERE]

import argparse
import array
import hashlib
import json
import struct

TYPES = {"U16": ("H", 0, 2**16 - 1), "U32": ("I", 0, 2**32 - 1), "I32": ("i", -(2**31), 2**31 - 1)}
WINDOW = 2048  # of the paper's evaluation


def write_tokens(path, ids, dtype, metadata):
    """Writes the ids as tensor `tokens` (T) of a safetensors file: length, JSON header, little-endian data.

    The file appears whole or not at all.
    """
    code, low, high = TYPES[dtype]
    for index, token in enumerate(ids):
        if not low <= token <= high:
            sys.exit(f"{path}: id {token} at index {index} does not fit {dtype} ({low}..{high})")
    data = array.array(code, ids)
    assert data.itemsize == int(dtype[1:]) // 8
    if sys.byteorder == "big":
        data.byteswap()
    size = len(data) * data.itemsize
    header = {"__metadata__": metadata, "tokens": {"dtype": dtype, "shape": [len(ids)], "data_offsets": [0, size]}}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            data.tofile(file)
        os.replace(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        sys.exit(f"{path}: cannot write: {error.strerror}")


def read_text(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        sys.exit(f"{path}: cannot read: {error.strerror}")
    except UnicodeDecodeError as error:
        sys.exit(f"{path}: is not UTF-8: byte {error.start}")


def read_ids(path):
    """Integers between white space."""
    ids = []
    for word in read_text(path).split():
        try:
            ids.append(int(word))
        except ValueError:
            sys.exit(f"{path}: expected integers, found {word[:40]!r} at index {len(ids)}")
    return ids


def wikitext_rows(path):
    """The rows of the data set: one per line of the raw file, with its end of line; a blank one is empty."""
    if path.endswith(".parquet"):
        try:
            import pyarrow.parquet
        except ImportError:
            sys.exit("tokenize.py: reading parquet needs a package: pip install pyarrow")
        try:
            return pyarrow.parquet.read_table(path, columns=["text"]).column("text").to_pylist()
        except (OSError, KeyError, pyarrow.ArrowException) as error:
            sys.exit(f"{path}: cannot read the column \"text\": {error}")
    # Not splitlines(): the text holds other characters that it takes for ends of lines.
    lines = read_text(path).split("\n")
    rows = [line + "\n" for line in lines[:-1]] + [line for line in lines[-1:] if line]
    return [row if row.strip() else "" for row in rows]


class Tokenizer:
    """A tokenizer.json, with its name and hash for the record."""

    def __init__(self, path):
        text = read_text(path)
        try:
            import tokenizers
        except ImportError:
            sys.exit("tokenize.py: tokenizing needs a package: pip install tokenizers")
        try:
            self.tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the package raises Exception itself
            sys.exit(f"{path}: is not a tokenizer.json: {error}")
        # A tokenizer.json may ask to cut the text or to fill it up: neither is meant for a corpus.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.vocab_size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        model = json.loads(text).get("model", {})
        unknown = model.get("unk_token")
        self.unknown_id = model.get("unk_id") if unknown is None else self.tokenizer.token_to_id(unknown)
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        self.metadata = {"tokenizer": os.path.basename(path), "tokenizer_sha256": digest}

    def encode(self, text, bos):
        """`bos`: an id, None for none, or "own" for the special tokens of the tokenizer."""
        ids = self.tokenizer.encode(text, add_special_tokens=bos == "own").ids
        return ids if bos in ("own", None) else [bos] + ids


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="*", metavar="TEXT", help="a UTF-8 text file, one document")
    parser.add_argument("--tokenizer", metavar="FILE", help="the model's tokenizer.json")
    parser.add_argument("--prepare", choices=["wikitext2"], help="a known data set by its protocol, see above")
    parser.add_argument("--raw", metavar="FILE", help="the data set's file for --prepare")
    parser.add_argument("--ids", metavar="FILE", help="token ids as text, instead of a tokenizer and texts")
    parser.add_argument("--out", required=True, metavar="FILE", help="the .safetensors file to write")
    bos = parser.add_mutually_exclusive_group()
    bos.add_argument("--bos", type=int, metavar="ID", help="this id before each document, no other special tokens")
    bos.add_argument("--no-bos", action="store_true", help="no special tokens")
    parser.add_argument("--dtype", choices=list(TYPES), help="default: the smallest that holds the vocabulary")
    parser.add_argument("--kind", choices=["evaluation", "calibration"], default="evaluation", help="for the record")
    parser.add_argument("--source", help="for the record; default: the names of the files")
    a = parser.parse_args()
    inputs = [bool(a.text), a.prepare is not None, a.ids is not None]
    if sum(inputs) != 1:
        parser.error("give one of: TEXT files, --prepare, --ids")
    if (a.prepare is None) != (a.raw is None):
        parser.error("--prepare and --raw go together")
    if (a.ids is None) == (a.tokenizer is None):
        parser.error("texts need --tokenizer, --ids goes without")
    if a.ids is not None and (a.bos is not None or a.no_bos):
        parser.error("--bos and --no-bos are for texts")
    if not a.out.endswith(".safetensors"):
        parser.error("--out: expected a name that ends in .safetensors")
    return a


def main():
    a = parse_arguments()
    bos = None if a.no_bos else "own" if a.bos is None else a.bos
    metadata = {"kind": a.kind}
    unknown = None
    if a.ids is not None:
        ids, source = read_ids(a.ids), os.path.basename(a.ids)
        largest = max(ids, default=0)
    else:
        tokenizer = Tokenizer(a.tokenizer)
        if a.bos is not None and not 0 <= a.bos < tokenizer.vocab_size:
            sys.exit(f"{a.tokenizer}: --bos {a.bos} is outside its vocabulary, 0..{tokenizer.vocab_size - 1}")
        if bos == "own" and not tokenizer.encode("", bos):
            print(f"{a.tokenizer}: adds no special tokens; --bos ID puts one first", file=sys.stderr)
        if a.prepare:
            documents = ["\n\n".join(wikitext_rows(a.raw))]
            source = f"WikiText-2 raw, test split ({os.path.basename(a.raw)}), rows joined by blank lines"
        else:
            documents, source = [read_text(path) for path in a.text], ", ".join(map(os.path.basename, a.text))
        ids = [token for document in documents for token in tokenizer.encode(document, bos)]
        metadata.update(tokenizer.metadata)
        largest = max([tokenizer.vocab_size - 1] + ids)  # one tokenizer, one dtype
        if tokenizer.unknown_id is not None:
            unknown = ids.count(tokenizer.unknown_id)
    if not ids:
        sys.exit(f"{a.out}: no tokens to write")
    metadata["source"] = source if a.source is None else a.source
    dtype = a.dtype or ("U16" if largest <= TYPES["U16"][2] else "U32")
    write_tokens(a.out, ids, dtype, metadata)

    share = "no unknown token in the vocabulary" if unknown is None else f"{100 * unknown / len(ids):.3g} % unknown"
    if a.ids is not None:
        share = "ids as given"
    windows, tail = divmod(len(ids), WINDOW)
    print(f"{a.out}: {len(ids)} tokens ({dtype}), {share}, {windows} windows of {WINDOW} and {tail} tokens left over")


if __name__ == "__main__":
    main()
