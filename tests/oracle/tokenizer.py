"""Makes tests/golden/tokenizer: captions, the vocabulary learned from them, and texts with their ids.

The vocabulary comes from a learner as plain as can be (all pairs are counted anew for every merge); the ids from Hugging
Face's `transformers`, after the cleaning of `ftfy` and `html` ("clip") or as it is ("hugging_face").

    python tests/oracle/tokenizer.py            # needs transformers, tokenizers, ftfy, regex
"""

import collections
import html
import json
import pathlib
import random
import unicodedata

import ftfy
import regex
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import CLIPTokenizer

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "golden" / "tokenizer"
START, END = "<|startoftext|>", "<|endoftext|>"
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
SIZE = 680


def byte_characters():
    visible = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    hidden = [b for b in range(256) if b not in visible]
    table = {b: chr(b) for b in visible}
    table.update({b: chr(0x100 + i) for i, b in enumerate(hidden)})
    return table, [table[b] for b in visible + hidden]


def captions(rng):
    nouns = "cat dog horse bird boat car bicycle umbrella guitar pineapple elephant airplane tree flower penguin".split()
    places = ["on grass", "in the sky", "in water", "on sand", "in snow", "at night", "in front of bricks"]
    heads = ["a photo of", "a picture of", "an image of", "it's", "here's", "they're looking at"]
    lines = []
    for _ in range(240):
        things = " and ".join("a " + rng.choice(nouns) for _ in range(rng.randint(1, 3)))
        lines.append(f"{rng.choice(heads)} {things} {rng.choice(places)}{rng.choice(['', '.', '!', ' no. 42'])}")
    return lines + ["Ein Café in Zürich, schöne Straße", "Кошка и собака", "日本の写真", "naïve façade, déjà vu"] * 3


def learn(lines, symbols):
    """Most frequent pair first; of equals, the one with the lower ids."""
    words = collections.Counter()
    for line in lines:
        words.update(regex.findall(PATTERN, line.lower()))
    table, _ = byte_characters()
    split = {}
    for word, count in words.items():
        letters = [table[b] for b in word.encode()]
        letters[-1] += "</w>"
        split[word] = letters
    ids = {s: i for i, s in enumerate(symbols)}
    merges = []
    while len(ids) + 2 < SIZE:
        counts = collections.Counter()
        for word, letters in split.items():
            for pair in zip(letters, letters[1:]):
                counts[pair] += words[word]
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        if counts[best] < 2:
            break
        merges.append(best)
        ids.setdefault("".join(best), len(ids))
        for letters in split.values():
            at = 0
            while at + 1 < len(letters):
                if (letters[at], letters[at + 1]) == best:
                    letters[at : at + 2] = ["".join(best)]
                at += 1
    ids[START], ids[END] = len(ids), len(ids) + 1
    return ids, merges


def texts(rng, lines):
    fixed = [
        "", " ", "a", "A Photo OF a CAT!!", "it's they're I'd we'll I've I'm don't", "  many   spaces\tand\nlines  ",
        "100% of 3.14 & 2,000,000", "&amp; &lt;b&gt; &quot;q&quot; &#39;x&#39;", "&ampamp; &nbsp; &notit; &hellip;",
        "P&EACUTE;REZ &SZLIG; &nTILDE; &LTIMES;", "&#x41;&#65;&#128;&#0;&#xD800;&#1114112;&#11;&#59; &#x; &#;",
        "&NotEqualTilde;&fjlig;&CounterClockwiseContourIntegral;", "<b>&eacute;</b> &amp;eacute;\n&amp;amp;eacute;",
        "café naïve façade Straße", "ŠĐČĆŽ ЖЩЯ ελληνικά", "日本語の写真 中文 한국어", "😀🚗🏳️‍🌈 emoji", "½ ² ① Ⅳ ٣ 42nd",
        "a\u0301 combining q\u0307\u0323", "\u00a0nbsp\u2003em\u200bzw", "don’t “quote” —dash… ‚low‘ ʼn ŉ",
        "ＦＵＬＬｗｉｄｔｈ　＆ａｍｐ；", "ｶﾞｷﾞ ﾡ ￦", "_under_score_ #hash @at", "İstanbul ıI", "ﬁ ligature ﬃ ﬅ ĳ ǅ Ǆ", "\u202eRTL",
        "ß ẞ", "ΟΔΟΣ Σ ΑΣ. ΣΑΣ' ΑΣΑ", "'S ''s !'s 'skate", "\u0345a\u0345", "<|endoftext|> and a<|startoftext|>b",
        "\x1b[31mred\x1b[0m \x07bell \ufeffbom \x85\x92\x81", "a\x0bb\x0cc\x1cd\x7fe", "x" * 200, "word " * 40, "C++17 1st 2nd",
        "e-mail: foo@bar.com http://x.y/z?q=1", "\u206a\ufff9\ufffc\u2028line\u2029par", "a cat\r\nand a dog\r",
    ]  # fmt: skip
    letters = "abcXYZ éüßñøæœłđž авгЖ ελΣ 日本字カなか 한글 0123456789½²Ⅳ .,!?'\"’“”-_/&;#<>@ ﬁﬂǆ ＡＢ１ \u0301\u0307\u0327\u200d😀🐶"
    words = [word for line in lines for word in line.split()] + ["&amp;", "&eacute;", "Umbrellas", "x-ray", "1980s", "n't"]
    random_texts = []
    while len(random_texts) < 340:
        if rng.random() < 0.4:
            text = " ".join(rng.choice(words) for _ in range(rng.randint(1, 12)))
        elif rng.random() < 0.7:
            text = "".join(rng.choice(letters) for _ in range(rng.randint(1, 24)))
        else:
            limit = rng.choice([0x250, 0x600, 0x3000, 0x10000, 0x20000])
            text = "".join(chr(rng.randrange(limit)) for _ in range(rng.randint(1, 10)))
        if all(unicodedata.category(c) not in ("Cn", "Cs") for c in text):  # newer tables differ in unassigned ones
            random_texts.append(text)
    return fixed + random_texts


def main():
    rng = random.Random(7)
    lines = captions(rng)
    _, characters = byte_characters()
    ids, merges = learn(lines, characters + [c + "</w>" for c in characters])
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "captions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (FOLDER / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (FOLDER / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "bos_token": START, "eos_token": END, "model_max_length": 32}
    (FOLDER / "tokenizer_config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")

    reference = CLIPTokenizer.from_pretrained(FOLDER)
    plain = Tokenizer(BPE(vocab=ids, merges=merges, end_of_word_suffix="</w>", unk_token=END))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = {START: [ids[START]], END: [ids[END]]}

    def clip_ids(text):
        text = ftfy.fix_text(text, fix_encoding=False)
        text = " ".join(html.unescape(html.unescape(text)).split()).lower()
        pieces = regex.findall(PATTERN, text, flags=regex.IGNORECASE)
        return [i for piece in pieces for i in special.get(piece) or plain.encode(piece).ids]

    cases = []
    for text in texts(rng, lines):
        case = {"text": text, "clip": clip_ids(text)}
        by_hugging_face = reference(text, add_special_tokens=False)["input_ids"]
        if by_hugging_face != case["clip"]:
            case["hugging_face"] = by_hugging_face
        cases.append(case)
    rows = ",\n".join(json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases)
    (FOLDER / "cases.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    print(len(ids), "symbols,", len(merges), "merges,", len(cases), "texts")


if __name__ == "__main__":
    main()
