#!/usr/bin/env python3
"""Write models/unicode_tables.h: what the tokenizers need to know about characters.

    make_unicode_tables.py TOKENIZER_T5_FOLDER > models/unicode_tables.h

The tokenizers of transformers take classes, lower case and normal forms from four libraries at four versions of Unicode
(16, 17, about 10 and 16), so no one library agrees with all of them, and one that is updated would change ids. The tables
are asked of the tokenizers themselves, character by character. Canonical combining classes and InCB, which cannot be asked
for, are Unicode's own: they are never changed for a character once it has them.

TOKENIZER_T5_FOLDER: a folder with T5's spiece.model, whose normaliser shows where graphemes end.
Needs transformers, tokenizers, sentencepiece, protobuf and regex.
"""
import sys
import unicodedata

import regex
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers
from transformers import T5TokenizerFast

POINTS = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
BMP = [c for c in POINTS if c < 0x10000]
HANGUL = range(0xAC00, 0xAC00 + 11172)


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def removed_by(pattern):
    replace = normalizers.Replace(Regex(pattern), "")
    return [c for c in POINTS if replace.normalize_str(chr(c)) == ""]


def matching(pattern):
    compiled = regex.compile(pattern)
    return {c for c in POINTS if compiled.match(chr(c))}


def words():
    """Characters beside which a token that must stand alone is not found."""
    tokenizer = Tokenizer(models.WordLevel({"u": 0}, unk_token="u"))
    tokenizer.add_special_tokens([AddedToken("QQ", single_word=True, normalized=False)])
    return [c for c in POINTS if 1 not in tokenizer.encode(chr(c) + "QQ").ids]


def glued(folder):
    """Characters that belong to the grapheme of the one before."""
    normalise = T5TokenizerFast.from_pretrained(folder)._tokenizer.normalizer.normalize_str
    # A grapheme of less than six bytes is replaced as one: e and acute compose only while nothing more is in it, and what
    # follows a circled one in it is lost.
    long = [c for c in POINTS if c >= 0x800 and normalise("e\u0301" + chr(c))[:1] == "e"]
    short = [c for c in POINTS if c < 0x800 and normalise(chr(c)) and normalise("\u2460" + chr(c)) == normalise("\u2460")]
    return set(long + short)


def lower():
    """Runs of (first, last, stride, difference), and U+0130, which becomes two characters."""
    lowercase = normalizers.Lowercase().normalize_str
    runs = []
    for c in POINTS:
        text = lowercase(chr(c))
        if text == chr(c):
            continue
        if len(text) != 1:
            assert c == 0x130 and text == "i\u0307"
            continue
        d = ord(text) - c
        if runs and runs[-1][3] == d:
            first, last, stride, _ = runs[-1]
            step = c - last
            if step <= 2 and (first == last or step == stride):
                runs[-1] = [first, c, step, d]
                continue
        runs.append([c, c, 1, d])
    return runs


def combining():
    nfd = normalizers.NFD().normalize_str
    known = [c for c in POINTS if c == 0x345 or nfd("\u0345" + chr(c)) not in ("\u0345" + chr(c), "\u0345" + nfd(chr(c)))]
    runs = []
    for c in known:
        value = unicodedata.combining(chr(c))
        if not value:
            assert nfd(chr(c)) != chr(c), hex(c)
            continue
        if runs and runs[-1][1] == c - 1 and runs[-1][2] == value:
            runs[-1][1] = c
        else:
            runs.append([c, c, value])
    return runs


def canonical():
    nfd, nfc = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
    apart, together = [], []
    for c in POINTS:
        text = nfd(chr(c))
        if text == chr(c) or c in HANGUL:
            continue
        apart.append((c, [ord(x) for x in text]))
        if nfc(text) == chr(c):
            first = nfc(text[:-1])
            assert len(first) == 1
            together.append((ord(first), ord(text[-1]), c))
    return apart, sorted(together)


def emit(declaration, rows):
    print(f"static const {declaration} = {{")
    line = "   "
    for row in rows:
        text = " {" + ", ".join(f"0x{x:X}" if i < 2 else str(x) for i, x in enumerate(row)) + "},"
        if len(line) + len(text) > 110:
            print(line)
            line = "   "
        line += text
    print(line)
    print("};\n")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    stuck = glued(sys.argv[1])
    print("/* unicode_tables.h - made by tools/make_unicode_tables.py; included by unicode.c alone. */")
    print("#ifndef LT_UNICODE_TABLES_H\n#define LT_UNICODE_TABLES_H\n\n#include <stdint.h>\n\n/* clang-format off */\n")
    classes = {
        "letters": removed_by(r"\p{L}"),
        "numbers": removed_by(r"\p{N}"),
        "words": words(),
        "spaces": removed_by(r"\s"),
        "glued": stuck,
        "controls": matching(r"[\p{GCB=Control}\p{GCB=CR}\p{GCB=LF}]"),
        "prepends": matching(r"\p{GCB=Prepend}"),
        "pictographs": matching(r"\p{Extended_Pictographic}") & set(range(0x20000)),
        "consonants": matching(r"\p{InCB=Consonant}"),
        "linkers": matching(r"\p{InCB=Linker}") & stuck,
        "spacing": matching(r"\p{GCB=SpacingMark}") & stuck,
    }
    for name, points in classes.items():
        emit(f"uint32_t lt_unicode_{name}[][2]", ranges(points))
    print("/* first, last, stride, what is added */")
    emit("int32_t lt_unicode_lower_runs[][4]", lower())
    print("/* first, last, canonical combining class */")
    emit("uint32_t lt_unicode_combining[][3]", combining())
    apart, together = canonical()
    pool = []
    rows = []
    for c, text in apart:
        rows.append((c, len(pool), len(text)))
        pool += text
    print("/* character, first of its parts in the pool, how many */")
    emit("uint32_t lt_unicode_apart[][3]", rows)
    emit("uint32_t lt_unicode_pool[][1]", [(x,) for x in pool])
    print("/* two characters, and the one they make */")
    emit("uint32_t lt_unicode_together[][3]", together)
    print("/* clang-format on */\n\n#endif")


if __name__ == "__main__":
    main()
