#!/usr/bin/env python3
"""Are the tests of the kernels sharp? Changes the kernels in many small ways and counts the changes that a test notices.

    tools/mutate_kernels.py WORK [--seed 1] [--sample 18] [--jobs 1] [--only FILE ...]

takes the last commit's tree, chooses places in the device code of kernels/tessera/kernels/*.cuh and
kernels/tessera/device/reduce.cuh, and writes a tree in WORK in which every chosen place has two versions: the kernel's
own and a changed one, which a number in the environment (TESSERA_MUTANT) picks when the test runs. So one build of the
tests of kernels holds all mutants. Each mutant meets the test cases that reach its place, the quickest first: without
sanitizers in three orders of threads, and if none fails, with every load and store checked. Killed means that a case
fails, ends by a signal, or takes far longer than it should.

Results go to WORK/results.json as they come; a run that was stopped goes on where it was. `--report` writes them to
docs/benchmarks/mutation.json and mutation.md; reasons for survivors, written by people, are kept in the former.
"""
import argparse
import concurrent.futures
import io
import json
import os
import random
import re
import resource
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
ORDERS = ["ascending", "descending", "random"]
# Operators, in the order in which they take their turns when places are sampled. Those of `everywhere` are applied at
# every place that they fit: barriers, asynchronous copies and shuffles are what the emulator is for.
OPERATORS = {
    "relation": "< and <=, > and >=, == and != change places",
    "arithmetic": "+ and - change places; * and / become + and *",
    "index": "a % b becomes (a + 1) % b: the next lane, the next stage",
    "literal": "a whole number becomes one more",
    "condition": "the condition of an if is negated",
    "junction": "the right side of && or || is left out",
    "accumulate": "x += y (or *=, &=, |=) becomes x = y",
    "extreme": "min and max, fminf and fmaxf change places",
    "exit": "a return, break or continue is left out",
    "fill": "c ? x : 0 becomes x; set_zero() and the validity of an asynchronous copy are left out",
    "store": "a store of a pack or of elements is left out",
    "barrier": "__syncthreads or __syncwarp is left out",
    "copy": "cp_async_commit or cp_async_wait is left out, or waits for one group fewer",
    "shuffle": "a shuffle takes another distance, or a mask lacks its last lane",
}
EVERYWHERE = {"barrier", "copy", "shuffle"}

# What the changed kernels call. Operators of the language are replaced by a pair of them around an object that knows
# its mutant's number: a < b becomes a < Less<7>{} < b, which the compiler reads with the precedence that it had.
SELECTOR = r"""// Written by tools/mutate_kernels.py.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <type_traits>

namespace mutation {

inline int chosen = [] {
  const char* number = std::getenv("TESSERA_MUTANT");
  return number ? std::atoi(number) : -1;
}();

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wc++11-narrowing"  // {0, 0} becomes {0, on(7) ? 1 : 0}
// Its own load is none of the kernel's.
__attribute__((noinline, no_sanitize("address", "undefined", "coverage"))) inline bool on(int mutant) {
  return chosen == mutant;
}
#else
// Which places a test comes to, written at the program's end.
struct Reached {
  unsigned char place[MUTANT_COUNT + 1] = {};
  ~Reached() {
    const char* path = std::getenv("TESSERA_MUTANT_REACHED");
    std::FILE* file = path ? std::fopen(path, "wb") : nullptr;
    if (!file) return;
    std::fwrite(place, 1, sizeof place, file);
    std::fclose(file);
  }
};
inline Reached reached;
__attribute__((always_inline)) inline bool on(int mutant) {
  reached.place[mutant] = 1;
  return chosen == mutant;
}
#endif

template <class A, int mutant, int kind>
struct Held {
  A value;
};
#define MUTATION_BINARY(Name, kind, sign, changed)                                                       \
  template <int mutant>                                                                                  \
  struct Name {};                                                                                        \
  template <class A, int mutant>                                                                         \
  __attribute__((always_inline)) inline Held<A, mutant, kind> operator sign(A a, Name<mutant>) {         \
    return {a};                                                                                          \
  }                                                                                                      \
  template <class A, int mutant, class B>                                                                \
    requires requires(A a, B b) { static_cast<decltype(a sign b)>(changed); }                            \
  __attribute__((always_inline)) inline auto operator sign(Held<A, mutant, kind> held, B b) {            \
    const A a = held.value;                                                                              \
    using Result = decltype(a sign b);                                                                   \
    return on(mutant) ? static_cast<Result>(changed) : static_cast<Result>(a sign b);                    \
  }
MUTATION_BINARY(Less, 0, <, a <= b)
MUTATION_BINARY(LessEqual, 1, <=, a < b)
MUTATION_BINARY(Greater, 2, >, a >= b)
MUTATION_BINARY(GreaterEqual, 3, >=, a > b)
MUTATION_BINARY(Equal, 4, ==, a != b)
MUTATION_BINARY(NotEqual, 5, !=, a == b)
MUTATION_BINARY(Plus, 6, +, a - b)
MUTATION_BINARY(Minus, 7, -, a + b)
MUTATION_BINARY(Times, 8, *, a + b)
MUTATION_BINARY(Over, 9, /, a * b)
MUTATION_BINARY(Modulo, 10, %, (a + 1) % b)
#undef MUTATION_BINARY

template <int mutant, class X>
struct Target {
  X& x;
#define MUTATION_ASSIGN(sign)                                              \
  template <class Y>                                                       \
    requires requires(X a, Y b) { static_cast<X>(b); a sign b; }           \
  __attribute__((always_inline)) inline void operator sign(const Y & y) {  \
    if (on(mutant))                                                        \
      x = static_cast<X>(y);                                               \
    else                                                                   \
      x sign y;                                                            \
  }
  MUTATION_ASSIGN(+=)
  MUTATION_ASSIGN(*=)
  MUTATION_ASSIGN(&=)
  MUTATION_ASSIGN(|=)
#undef MUTATION_ASSIGN
};
template <int mutant, class X>
__attribute__((always_inline)) inline Target<mutant, X> target(X& x) {
  return {x};
}

// As the kernels' own: a NaN is passed over.
template <class T>
__attribute__((always_inline)) inline T smaller(T a, T b) {
  return b < a || a != a ? b : a;
}
template <class T>
__attribute__((always_inline)) inline T larger(T a, T b) {
  return a < b || a != a ? b : a;
}
template <int mutant, class T>
__attribute__((always_inline)) inline T least(T a, T b) {
  return on(mutant) ? larger(a, b) : smaller(a, b);
}
template <int mutant, class T>
__attribute__((always_inline)) inline T most(T a, T b) {
  return on(mutant) ? smaller(a, b) : larger(a, b);
}

template <int mutant, class T>
__attribute__((always_inline)) inline T distance(T d) {
  return on(mutant) ? (d > 1 ? T(d / 2) : T(2)) : d;
}
__attribute__((always_inline)) inline unsigned mask(int mutant, unsigned lanes) {
  return on(mutant) ? lanes & 0x7fffffffu : lanes;
}

}  // namespace mutation
"""
BINARY = {"<": "Less", "<=": "LessEqual", ">": "Greater", ">=": "GreaterEqual", "==": "Equal", "!=": "NotEqual",
          "+": "Plus", "-": "Minus", "*": "Times", "/": "Over", "%": "Modulo"}
CHANGED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "+": "-", "-": "+", "*": "+", "/": "*"}
EXTREMES = {"min": "least", "fminf": "least", "max": "most", "fmaxf": "most"}
OTHER_EXTREME = {"min": "max", "max": "min", "fminf": "fmaxf", "fmaxf": "fminf"}

# ---- reading a kernel file ----

TOKEN = re.compile(r"""
    (?P<space>\s+) | (?P<comment>//[^\n]*|/\*.*?\*/) | (?P<directive>^[ \t]*\#(?:[^\n\\]|\\.|\\\n)*)
  | (?P<string>"(?:[^"\\]|\\.)*") | (?P<char>'(?:[^'\\]|\\.)*')
  | (?P<number>\.?\d(?:[eEpP][+-]|['\w.])*) | (?P<name>[A-Za-z_]\w*)
  | (?P<sign><<=|>>=|<=>|\.\.\.|->\*|::|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||\+=|-=|\*=|/=|%=|&=|\|=|\^=|.)
""", re.X | re.S | re.M)
OPEN, CLOSE = "([{", ")]}"


class Token:
    __slots__ = ("text", "kind", "begin", "end", "spaced", "line")

    def __init__(self, text, kind, begin, spaced, line):
        self.text, self.kind, self.begin, self.spaced, self.line = text, kind, begin, spaced, line
        self.end = begin + len(text)


def tokens_of(source):
    tokens, spaced, line = [], False, 1
    for match in TOKEN.finditer(source):
        text, kind = match.group(), match.lastgroup
        if kind in ("space", "comment", "directive"):
            spaced = True
        else:
            tokens.append(Token(text, kind, match.start(), spaced, line))
            spaced = False
        line += text.count("\n")
    return tokens


def pairs_of(tokens):
    """The index of each bracket's partner."""
    partner, stack = {}, []
    for i, token in enumerate(tokens):
        if token.text in OPEN:
            stack.append(i)
        elif token.text in CLOSE:
            other = stack.pop()
            partner[i], partner[other] = other, i
    return partner


def angle_end(tokens, i):
    """Of a template's argument list that opens at i: the index of its end, or None."""
    depth = 0
    for j in range(i, min(i + 200, len(tokens))):
        text = tokens[j].text
        if text == "<":
            depth += 1
        elif text in (">", ">>"):
            depth -= len(text)
            if depth <= 0:
                return j
        elif text in ";{}":
            return None
    return None


class Edit:
    """Text put before and after [begin, end), or in its place."""

    def __init__(self, begin, end, before, after="", replaces=False):
        self.begin, self.end, self.before, self.after, self.replaces = begin, end, before, after, replaces


class Place:
    """One change at one place, not yet numbered: `edits` are made from its number."""

    def __init__(self, operator, token, change, edits):
        self.operator, self.token, self.change, self.edits = operator, token, change, edits


def device_bodies(tokens, partner):
    """[begin, end) of the bodies of functions that run on the device."""
    bodies = []
    for i, token in enumerate(tokens):
        if token.text not in ("TESSERA_KERNEL", "TESSERA_DEVICE"):
            continue
        j, parameters, constant = i + 1, False, False
        while j < len(tokens):
            text = tokens[j].text
            constant |= text == "constexpr"
            if text == "TESSERA_LAUNCH_BOUNDS":
                j = partner[j + 1]
            elif text == "(":
                parameters, j = True, partner[j]
            elif text == ";" and parameters:
                break
            elif text == "{" and parameters:
                if not constant:
                    bodies.append((j + 1, partner[j]))
                break
            j += 1
    return bodies


def constant_parts(tokens, partner, body):
    """Indices of tokens in a body that the compiler must know: no changed version of theirs can be chosen at run time."""
    constant, i = set(), body[0]
    while i < body[1]:
        text, end = tokens[i].text, None
        if text == "constexpr" and tokens[i - 1].text == "if":
            end = partner[i + 1]
        elif text in ("constexpr", "using", "static"):
            end = i
            while tokens[end].text != ";":
                end = partner[end] + 1 if end in partner and partner[end] > end else end + 1
        elif tokens[i].kind == tokens[i + 1].kind == "name" and tokens[i + 2].text == "[" and text != "return":
            end = i  # a local array: up to its initialiser
            while tokens[end].text not in (";", "="):
                end += 1
        elif text in ("static_assert", "TESSERA_SHARED", "sizeof"):
            end = partner[i + 1] if tokens[i + 1].text == "(" else i
        elif text == "<" and not tokens[i].spaced and tokens[i - 1].kind == "name":
            end = angle_end(tokens, i)
        if end is not None:
            constant.update(range(i, end + 1))
            if text not in "<":
                i = end
        i += 1
    return constant


def operand_end(tokens, partner, i):
    """The index after the operand that begins at i, of && or ||."""
    while tokens[i].text not in (")", "]", "}", ";", ",", "?", ":", "&&", "||"):
        i = partner[i] + 1 if tokens[i].text in OPEN else i + 1
    return i


def condition_begin(tokens, partner, i):
    """The index of the first token of the condition before the ? at i."""
    stops = ("(", "[", "{", ";", ",", "return", "?", ":", "=", "+=", "*=", "-=")
    while tokens[i - 1].text not in stops:
        i = partner[i - 1] if tokens[i - 1].text in CLOSE else i - 1
    return i


def statement_begin(tokens, partner, i):
    """Whether a statement begins at i."""
    before = tokens[i - 1]
    if before.text in (";", "{", "}", "else"):
        return True
    if before.text == ")":
        opened = partner[i - 1]
        return tokens[opened - 1].text in ("if", "for", "while", "constexpr")
    return before.text == "TESSERA_UNROLL"


def argument(tokens, partner, opened, number):
    """[begin, end) of an argument of the call whose ( is at `opened`, or None."""
    begin, i = opened + 1, opened + 1
    while True:
        if tokens[i].text in (",", ")"):
            if number == 0:
                return begin, i
            if tokens[i].text == ")":
                return None
            number, begin = number - 1, i + 1
            i += 1
        elif tokens[i].text == "<" and not tokens[i].spaced and tokens[i - 1].kind == "name":
            i = (angle_end(tokens, i) or i) + 1
        else:
            i = partner[i] + 1 if tokens[i].text in OPEN else i + 1


def places_of(source):
    """Every place in a file's device code where an operator fits."""
    tokens = tokens_of(source)
    partner = pairs_of(tokens)
    places = []

    def text(begin, end):
        return " ".join(source[tokens[begin].begin:tokens[end - 1].end].split())

    def add(operator, i, change, make):
        places.append(Place(operator, tokens[i], change, make))

    def wrap(begin, end, before, after):
        return Edit(tokens[begin].begin, tokens[end - 1].end, before, after)

    def leave_out(operator, i, what):
        add(operator, i, f"{what} left out",
            lambda m: [Edit(tokens[i].begin, tokens[i].begin, f"if (!::mutation::on({m})) ")])

    for body in device_bodies(tokens, partner):
        constant = constant_parts(tokens, partner, body)
        for i in range(*body):
            token, before, after = tokens[i], tokens[i - 1], tokens[i + 1]
            if i in constant:
                continue
            name = token.text
            binary = token.spaced and after.spaced and (before.kind in ("name", "number") or before.text in ")]>")
            if name in BINARY and binary and before.text not in ("return", "case"):
                operator = "index" if name == "%" else "arithmetic" if name in "+-*/" else "relation"
                change = "% of one more" if name == "%" else f"{name} becomes {CHANGED[name]}"
                add(operator, i, change, lambda m, t=token: [
                    Edit(t.begin, t.end, f"{t.text} ::mutation::{BINARY[t.text]}<{m}>{{}} {t.text}", replaces=True)])
            elif token.kind == "number" and re.fullmatch(r"\d+", name):
                add("literal", i, f"{name} becomes {int(name) + 1}", lambda m, t=token: [
                    Edit(t.begin, t.end, f"(::mutation::on({m}) ? {int(t.text) + 1} : {t.text})", replaces=True)])
            elif name == "if" and after.text == "(":
                begin, end = i + 2, partner[i + 1]
                if not any(tokens[j].text == ";" for j in range(begin, end)):
                    add("condition", i, f"if (!({text(begin, end)}))", lambda m, b=begin, e=end: [
                        wrap(b, e, f"::mutation::on({m}) != bool(", ")")])
            elif name in ("&&", "||") and token.spaced and after.spaced:
                end = operand_end(tokens, partner, i + 1)
                test = "" if name == "&&" else "!"
                add("junction", i, f"{name} {text(i + 1, end)} left out", lambda m, b=i + 1, e=end, n=name, t=test: [
                    wrap(b, e, f"({t}::mutation::on({m}) {'||' if n == '&&' else '&&'} bool(", "))")])
            elif name in ("+=", "*=", "&=", "|="):
                begin = i
                while begin > body[0] and not statement_begin(tokens, partner, begin):
                    begin = partner[begin - 1] if tokens[begin - 1].text in CLOSE else begin - 1
                if any(tokens[j].text in ("=", ";", "for") for j in range(begin, i)) or begin == i:
                    continue
                add("accumulate", i, f"{name} becomes =", lambda m, b=begin, e=i: [
                    wrap(b, e, f"::mutation::target<{m}>(", ")")])
            elif name in EXTREMES and after.text == "(" and before.text not in ("::", ".", "->", "float"):
                add("extreme", i, f"{name} becomes {OTHER_EXTREME[name]}", lambda m, t=token: [
                    Edit(t.begin, t.end, f"::mutation::{EXTREMES[t.text]}<{m}>", replaces=True)])
            elif name in ("return", "break", "continue") and after.text == ";":
                leave_out("exit", i, name)
            elif name == "?" and tokens[partner_of_question(tokens, partner, i) + 1].text in ("0", "0.0f", "narrow"):
                zero = partner_of_question(tokens, partner, i) + 1
                if tokens[zero].text == "narrow" and "0.0f" not in text(zero, zero + 7):
                    continue
                begin = condition_begin(tokens, partner, i)
                add("fill", i, f"({text(begin, i)}) taken as true", lambda m, b=begin, e=i: [
                    wrap(b, e, f"(::mutation::on({m}) || bool(", "))")])
            elif name == "set_zero" and statement_begin(tokens, partner, i):
                leave_out("fill", i, name)
            elif name == "cp_async16":
                valid = argument(tokens, partner, i + 1, 2)
                if valid:
                    add("fill", i, "valid always", lambda m, v=valid: [
                        wrap(*v, f"(::mutation::on({m}) || bool(", "))")])
            elif name.startswith("store_") and statement_begin(tokens, partner, i):
                leave_out("store", i, name)
            elif name in ("__syncthreads", "__syncwarp") and statement_begin(tokens, partner, i):
                leave_out("barrier", i, name)
            elif name in ("cp_async_commit", "cp_async_wait") and statement_begin(tokens, partner, i):
                leave_out("copy", i, name)
                if name == "cp_async_wait":
                    closed = angle_end(tokens, i + 1)
                    count = text(i + 2, closed)
                    add("copy", i, f"cp_async_wait<{count} + 1>", lambda m, b=i, e=closed + 3, c=count: [
                        wrap(b, e, f"(::mutation::on({m}) ? cp_async_wait<({c}) + 1>() : ", ")")])
            elif name.startswith("__shfl") or name in ("__ballot_sync", "__any_sync", "__all_sync"):
                lanes = argument(tokens, partner, i + 1, 0)
                add("shuffle", i, "mask without lane 31", lambda m, a=lanes: [
                    wrap(*a, f"::mutation::mask({m}, ", ")")])
                far = argument(tokens, partner, i + 1, 2) if name.startswith("__shfl") else None
                if far:
                    add("shuffle", i, "another distance", lambda m, a=far: [
                        wrap(*a, f"::mutation::distance<{m}>(", ")")])
    return places


def partner_of_question(tokens, partner, i):
    """The index of the : that belongs to the ? at i."""
    depth = 0
    while True:
        i = partner[i] + 1 if tokens[i].text in OPEN else i + 1
        if tokens[i].text == "?":
            depth += 1
        elif tokens[i].text == ":":
            if depth == 0:
                return i
            depth -= 1


# ---- choosing, and writing the changed tree ----

class Mutant:
    def __init__(self, number, file, place, source, occurrence):
        self.number, self.file, self.place = number, file, place
        self.operator, self.change, self.line = place.operator, place.change, place.token.line
        self.code = source.split("\n")[self.line - 1].strip()
        self.key = f"{file}: {self.code} | {self.operator}: {self.change} | {occurrence}"


def choose(files, sources, seed, sample):
    """Mutants of each file: all of the operators of EVERYWHERE, and `sample` of the others, which take turns."""
    mutants, fits = [], {}
    for file in files:
        places = places_of(sources[file])
        fits[file] = len(places)
        occurrences, keyed = {}, []
        for place in places:
            code = sources[file].split("\n")[place.token.line - 1].strip()
            same = (code, place.operator, place.change)
            occurrences[same] = occurrences.get(same, 0) + 1
            keyed.append((place, occurrences[same]))
        draw = random.Random(f"{seed} {file}")
        chosen = [p for p in keyed if p[0].operator in EVERYWHERE]
        turns = [[p for p in keyed if p[0].operator == operator] for operator in OPERATORS if operator not in EVERYWHERE]
        for turn in turns:
            draw.shuffle(turn)
        taken = 0
        while taken < sample and any(turns):
            for turn in turns:
                if turn and taken < sample:
                    chosen.append(turn.pop())
                    taken += 1
        chosen.sort(key=lambda p: p[0].token.begin)
        for place, occurrence in chosen:
            mutants.append(Mutant(len(mutants), file, place, sources[file], occurrence))
    return mutants, fits


def changed_source(source, mutants):
    """The file with all its mutants, and where each lies in the new text: [(begin, end, mutant)]."""
    pieces = []  # (position, closes first, nesting, text, mutant)
    replaced = {}
    for mutant in mutants:
        for edit in mutant.place.edits(mutant.number):
            if edit.replaces:
                if edit.begin in replaced:
                    raise RuntimeError(f"two changes of one token: {mutant.key}")
                replaced[edit.begin] = (edit.end, edit.before, mutant)
            else:
                if edit.after:
                    pieces.append((edit.end, 0, -edit.begin, edit.after, mutant))
                nesting = -edit.end if edit.end > edit.begin else -len(source) - 1  # what guards a statement comes first
                pieces.append((edit.begin, 1, nesting, edit.before, mutant))
    pieces.sort(key=lambda p: p[:3])
    out, spans, at, length = [], [], 0, 0

    def put(text):
        nonlocal length
        out.append(text)
        length += len(text)

    def copy_to(end):
        nonlocal at
        for begin in sorted(b for b in replaced if at <= b < end):
            put(source[at:begin])
            stop, text, mutant = replaced[begin]
            spans.append((length, length + len(text), mutant))
            put(text)
            at = stop
        put(source[at:end])
        at = max(at, end)

    for position, _, _, text, mutant in pieces:
        copy_to(position)
        spans.append((length, length + len(text), mutant))
        put(text)
    copy_to(len(source))
    return "".join(out), spans


def write_if_new(path, text, keep_time=False):
    """Writes where the content differs; with keep_time as if the file had not changed since."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat() if keep_time else None
        path.write_text(text)
        if before:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


class Tree:
    """A copy of the repository in which the kernels are changed."""

    def __init__(self, work, commit, sources, mutants, dropped):
        self.work, self.root = work, work / "tree"
        self.sources, self.mutants, self.dropped = sources, mutants, dropped
        self.root.mkdir(parents=True, exist_ok=True)
        stamp = work / "commit"
        if not stamp.exists() or stamp.read_text() != commit:  # files that stay the same stay: less to compile
            archive = subprocess.run(["git", "-C", SOURCE, "archive", commit], check=True, stdout=subprocess.PIPE).stdout
            with tarfile.open(fileobj=io.BytesIO(archive)) as members:
                for member in members:
                    path = self.root / member.name
                    if not member.isfile() or member.name in sources:
                        continue
                    content = members.extractfile(member).read()
                    if not path.exists() or path.read_bytes() != content:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(content)
            stamp.write_text(commit)

    def write(self, keep_time=False):
        self.spans, self.texts = {}, {}
        count = len(self.mutants)
        write_if_new(self.root / "kernels/mutation.hpp", SELECTOR.replace("MUTANT_COUNT", str(count)), keep_time)
        for file, source in self.sources.items():
            mine = [m for m in self.mutants if m.file == file and m.number not in self.dropped]
            text, spans = changed_source(source, mine)
            # In the place of the first line, a comment, so that lines keep their numbers.
            first = text.index("\n")
            include = "#include <mutation.hpp>"
            text = include + text[first:]
            self.spans[file] = [(b - first + len(include), e - first + len(include), m) for b, e, m in spans]
            self.texts[file] = text
            write_if_new(self.root / file, text, keep_time)

    def at(self, file, line, column):
        """The mutants that a message of the compiler may be about."""
        lines = self.texts[file].split("\n")
        offset = sum(len(l) + 1 for l in lines[:line - 1])
        position = offset + column - 1
        hit = {m.number for b, e, m in self.spans[file] if b - 1 <= position <= e}
        return hit or {m.number for b, e, m in self.spans[file] if offset <= b <= offset + len(lines[line - 1])}


FLAVOURS = {
    "plain": ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1", "-DTESSERA_ONEDNN=ON"],
    "checked": ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1",
                "-DTESSERA_SIMT_CHECKED=ON", "-DCMAKE_CXX_COMPILER=clang++-14"],
}


def configure(tree, flavour):
    build = tree.work / flavour
    if not (build / "build.ninja").exists():
        launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if subprocess.run(
            ["which", "ccache"], stdout=subprocess.DEVNULL).returncode == 0 else []
        subprocess.run(["cmake", "-S", tree.root, "-B", build, "-G", "Ninja", "-DTESSERA_EXAMPLES=OFF",
                        "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *launcher, *FLAVOURS[flavour]],
                       check=True, stdout=subprocess.DEVNULL)
    return build


def messages_of(output):
    """[(error or note, file, line, column)] of a compiler's output."""
    found = []
    for line in output.split("\n"):
        match = re.match(r"(\S+?):(\d+):(\d+):\s+(fatal error|error|note|.*required from|warning)?", line)
        if match:
            found.append((match.group(4) or "", match.group(1), int(match.group(2)), int(match.group(3))))
    return found


def build_tests(tree, flavour, tests, jobs):
    """Compiles; a mutant that the compiler does not take is dropped. Programs that hold it already stay as they are: it
    is not run."""
    build = configure(tree, flavour)
    started = time.time()
    while True:
        run = subprocess.run(["cmake", "--build", build, "-j", str(jobs), "--", "-k", "0",
                              *(f"test_kernels_{t}" for t in tests)], stdout=subprocess.PIPE, text=True)
        if run.returncode == 0:
            break
        messages = messages_of(run.stdout)
        for kinds in (("error", "fatal error"), None):  # where no error lies in a kernel, whence it was called
            new = set()
            for kind, path, line, column in messages:
                file = os.path.relpath(build / path, tree.root)
                if file in tree.spans and (kinds is None or kind in kinds):
                    new |= tree.at(file, line, column)
            if new:
                break
        else:
            sys.exit(f"{flavour}: an error that no mutant explains:\n{run.stdout[-4000:]}")
        tree.dropped |= new
        print(f"{flavour}: {len(new)} do not compile: {sorted(new)}", flush=True)
        tree.write(keep_time=True)
    print(f"{flavour}: built in {time.time() - started:.0f} s", flush=True)


# ---- running ----

class Run:
    def __init__(self, verdict, seconds, output):
        self.verdict, self.seconds, self.output = verdict, seconds, output


DIAGNOSIS = re.compile(r"order (ascending|descending|random, seed)|AddressSanitizer|runtime error:|tessera simt:")


def run_case(tree, flavour, test, case, order, mutant, limit, reached=None):
    """One test case, in a program of its own. The verdict is None where it passes."""
    environment = dict(os.environ, TESSERA_SIMT_ORDER=order, OMP_NUM_THREADS="1")
    environment.pop("TESSERA_MUTANT", None)
    if mutant is not None:
        environment["TESSERA_MUTANT"] = str(mutant)
    if reached:
        environment["TESSERA_MUTANT_REACHED"] = str(reached)
    name = re.sub(r"([\\,\[\]])", r"\\\1", case)

    def limits():
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    program = tree.work / flavour / "tests" / f"test_kernels_{test}"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([program, name, "--abort"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env=environment, preexec_fn=limits, cwd=tree.root)
    try:
        output = process.communicate(timeout=60 + 20 * limit)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Run("hang", limit, "")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if process.returncode == 0:
        return Run(None, seconds, output)
    if process.returncode == -24 or process.returncode == -9:
        return Run("hang", seconds, output)
    return Run("diagnosis" if DIAGNOSIS.search(output) else "crash" if process.returncode < 0 else "comparison",
               seconds, output)


def cases_of(tree, flavour, test):
    program = tree.work / flavour / "tests" / f"test_kernels_{test}"
    listed = subprocess.run([program, "--list-test-names-only"], stdout=subprocess.PIPE, text=True)
    return [line for line in listed.stdout.split("\n") if line.strip()]


def baseline(tree, flavour, tests, results):
    """Unchanged, every case passes; how long each takes, and which places it comes to."""
    kept = results.setdefault("cases", {}).setdefault(flavour, {})
    for test in tests:
        for case in cases_of(tree, flavour, test):
            key = f"{test}/{case}"
            if key in kept:
                continue
            file = tree.work / "reached"
            file.unlink(missing_ok=True)
            run = run_case(tree, flavour, test, case, "ascending", None, 600, file)
            if run.verdict:
                sys.exit(f"{flavour}, {key} fails without a mutant:\n{run.output[-3000:]}")
            kept[key] = {"seconds": round(run.seconds, 2)}
            if flavour == "plain":
                kept[key]["reached"] = [i for i, hit in enumerate(file.read_bytes()) if hit]


def judge(tree, flavour, mutant, keys, times):
    """The first (order, test case) that notices the mutant, or None."""
    for order in ORDERS:
        for key in sorted(keys, key=lambda k: times[k]["seconds"]):
            test, case = key.split("/", 1)
            limit = int(2 + 4 * times[key]["seconds"])
            run = run_case(tree, flavour, test, case, order, mutant.number, limit)
            if run.verdict:
                return {"flavour": flavour, "case": key, "order": order, "by": run.verdict}
    return None


CHECKED_SECONDS = 20  # of one order; code that many tests share meets no more tests with all accesses checked


def judge_all(tree, flavour, test, results, save, jobs):
    """All mutants that are alive and that this test reaches."""
    times, verdicts = results["cases"][flavour], results.setdefault("verdicts", {})
    reached = {}
    for key, case in results["cases"]["plain"].items():
        if key.startswith(test + "/"):
            for number in case["reached"]:
                reached.setdefault(number, []).append(key)
    waiting = []
    for mutant in tree.mutants:
        verdict = verdicts.setdefault(mutant.key, {"state": "survived", "tried": {"plain": [], "checked": []}})
        if mutant.number in tree.dropped:
            verdicts[mutant.key] = {"state": "not compiled"}
        elif verdict["state"] == "survived" and mutant.number in reached and test not in verdict["tried"][flavour]:
            spent = verdict.get("seconds", 0)
            if flavour == "plain" or spent == 0 or spent < CHECKED_SECONDS:
                waiting.append(mutant)
    lock, done = threading.Lock(), 0

    def one(mutant):
        nonlocal done
        keys = reached[mutant.number]
        found = judge(tree, flavour, mutant, keys, times)
        with lock:
            done += 1
            verdict = verdicts[mutant.key]
            if found:
                verdicts[mutant.key] = {"state": "killed", **found}
            else:
                verdict["tried"][flavour].append(test)
                if flavour == "checked":
                    verdict["seconds"] = verdict.get("seconds", 0) + sum(times[k]["seconds"] for k in keys)
            save()
            print(f"{flavour} {test} {done}/{len(waiting)} {found or 'survives'} {mutant.file}:{mutant.line} "
                  f"{mutant.change}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, waiting))


# ---- the report ----

def report(results, reasons_from, target_json, target_text):
    reasons = {}
    if reasons_from.exists():
        reasons = json.loads(reasons_from.read_text()).get("reasons", {})
    mutants = results["mutants"]
    verdicts = results["verdicts"]
    rows, survivors, by = {}, [], {}
    operators = {}
    for mutant in mutants:
        verdict = verdicts.get(mutant["key"], {"state": "not run"})
        state = verdict["state"]
        if state == "survived" and not results.get("complete") and not verdict["tried"]["checked"]:
            state = "not run"
        row = rows.setdefault(mutant["file"], {})
        row[state] = row.get(state, 0) + 1
        of = operators.setdefault(mutant["operator"], {})
        of[state] = of.get(state, 0) + 1
        if state == "killed":
            how = f"{verdict['flavour']}, {verdict['by']}"
            by[how] = by.get(how, 0) + 1
        elif state == "survived":
            survivors.append({**mutant, "tried": verdict["tried"]})
    total = {s: sum(row.get(s, 0) for row in rows.values()) for s in ("killed", "survived", "not compiled", "not run")}

    def rate(row):
        if row.get("not run"):
            return "unfinished"  # the killed alone are done first: a rate of them would flatter
        tried = row.get("killed", 0) + row.get("survived", 0)
        return f"{100 * row.get('killed', 0) / tried:.1f} %" if tried else "–"

    def unreached(mutant):
        return "" if mutant["tried"]["checked"] else " (No test comes here.)"

    out = ["# Mutants of the kernels", "",
           "How sharp are the tests of the kernels? `tools/mutate_kernels.py` changes the kernels' device code in small "
           "ways, one at a time, and runs their tests on the emulator. A change that no test notices is a hole in the tests, "
           "or no change at all; each is listed below with its reason.", "",
           f"Commit {results['commit'][:12]}, seed {results['seed']}, {results['sample']} sampled places a file and all "
           f"barriers, asynchronous copies and shuffles: **{total['killed']} of {total['killed'] + total['survived']} "
           f"killed, {rate(total)}**, survivors that change nothing counted as survivors. {total['not compiled']} more did not "
           "compile and count neither way."
           + (f" {total['not run']} were not run to the end." if total["not run"] else ""), "",
           "Every mutant meets the test cases of `tests/kernels` that reach its place: without sanitizers in the three "
           "orders ascending, descending and random; if it survives, with every load and store checked in the same "
           "orders (code that many tests share meets no further test once those so far took 20 s). Killed means that a case fails, the program ends by a "
           "signal, or it takes four times as long as it should and 2 s more. Mutated are the bodies of device functions. Left out is what "
           "the compiler must know (traits, template arguments, `constexpr`, shared arrays' sizes) and the host code that launches.", "",
           "Again (about 45 minutes on two cores; stopped, it goes on where it was):", "",
           "```sh", f"tools/mutate_kernels.py build/mutants --seed {results['seed']} --sample {results['sample']} --jobs 2 --report", "```", "",
           "## By file", "", "| file | killed | survived | rate | not compiled | places where an operator fits |",
           "|---|---|---|---|---|---|"]
    for file, row in rows.items():
        out.append(f"| {file.removeprefix('kernels/tessera/')} | {row.get('killed', 0)} | {row.get('survived', 0)} | "
                   f"{rate(row)} | {row.get('not compiled', 0)} | {results['fits'][file]} |")
    out += ["", "## By operator", "", "| operator | what it does | killed | survived |", "|---|---|---|---|"]
    for operator, meaning in OPERATORS.items():
        row = operators.get(operator, {})
        meaning = meaning.replace("|", "\\|")
        out.append(f"| {operator} | {meaning} | {row.get('killed', 0)} | {row.get('survived', 0)} |")
    out += ["", "## How they were noticed", "",
            "Diagnosis: the emulator or a sanitizer said what is wrong. Comparison: a number differs from Cpu's. "
            "Crash: a signal. Hang: the program did not end.", "", "| flavour, how | mutants |", "|---|---|"]
    out += [f"| {how} | {count} |" for how, count in sorted(by.items(), key=lambda p: -p[1])]
    out += ["", "## Survivors", ""]
    for mutant in survivors:
        reason = reasons.get(mutant["key"], "not examined")
        code = mutant["code"] if len(mutant["code"]) < 110 else mutant["code"][:107] + "…"
        out += [f"- `{mutant['file'].removeprefix('kernels/tessera/')}:{mutant['line']}` {mutant['operator']}: "
                f"`{mutant['change']}` in", f"  `{code}`.", f"  {reason}" + unreached(mutant)]
    target_text.write_text("\n".join(out) + "\n")
    survivors_left = {m["key"] for m in survivors}
    kept = {"commit": results["commit"], "seed": results["seed"], "sample": results["sample"],
            "total": total, "verdicts": {m["key"]: verdicts.get(m["key"], {"state": "not run"}) for m in mutants},
            "reasons": {k: v for k, v in reasons.items() if k in survivors_left}}
    target_json.write_text(json.dumps(kept, indent=0, ensure_ascii=False) + "\n")
    print(f"{total}, {rate(total)}; survivors without a reason: {sum(m['key'] not in reasons for m in survivors)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample", type=int, default=18)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="these kernel files, e.g. layernorm.cuh, and the tests of their names")
    parser.add_argument("--list", action="store_true", help="tell what would be tried")
    parser.add_argument("--until", choices=list(FLAVOURS), default="checked")
    parser.add_argument("--retry", action="store_true", help="survivors meet the tests of the last commit")
    parser.add_argument("--report", action="store_true", help="write docs/benchmarks/mutation.md and .json")
    options = parser.parse_args()

    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    path = work / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    git = ["git", "-C", str(SOURCE)]
    if options.retry:
        results.pop("commit", None)
        results.pop("cases", None)
        results.pop("complete", None)
    commit = results.get("commit") or subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    names = subprocess.check_output([*git, "ls-tree", "-r", "--name-only", commit, "kernels/tessera", "tests/kernels"],
                                    text=True).split()
    files = [n for n in names if n.startswith("kernels/tessera/kernels/")] + ["kernels/tessera/device/reduce.cuh"]
    tests = [n for n in names if n.startswith("tests/kernels/")]
    sizes = dict(zip(tests, [len(subprocess.check_output([*git, "show", f"{commit}:{n}"])) for n in tests]))
    tests = [Path(n).name.removesuffix("_test.cpp") for n in sorted(tests, key=sizes.get)]  # the quick ones first
    if options.only:
        files = [f for f in files if Path(f).name in options.only]
        tests = [t for t in tests if t + ".cuh" in options.only]
    sources = {f: subprocess.check_output([*git, "show", f"{commit}:{f}"], text=True) for f in files}
    mutants, fits = choose(files, sources, options.seed, options.sample)
    if options.list:
        for m in mutants:
            print(f"{m.number} {m.file}:{m.line} {m.operator}: {m.change}   {m.code}")
        print(f"{len(mutants)} of {sum(fits.values())} places")
        return
    results.update(commit=commit, seed=options.seed, sample=options.sample, fits=fits,
                   mutants=[{"key": m.key, "file": m.file, "line": m.line, "operator": m.operator, "change": m.change,
                             "code": m.code} for m in mutants])

    def save():
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(results))
        temporary.replace(path)

    verdicts = results.setdefault("verdicts", {})
    if options.retry:
        for key, verdict in verdicts.items():
            if verdict["state"] == "survived":
                verdicts[key] = {"state": "survived", "tried": {"plain": [], "checked": []}}
    dropped = {m.number for m in mutants if verdicts.get(m.key, {}).get("state") == "not compiled"}
    tree = Tree(work, commit, sources, mutants, dropped)
    tree.write()
    flavours = list(FLAVOURS)[:list(FLAVOURS).index(options.until) + 1]
    for flavour in flavours:
        for test in tests:
            build_tests(tree, flavour, [test], options.jobs)
            baseline(tree, flavour, [test], results)
            save()
            judge_all(tree, flavour, test, results, save, options.jobs)
            save()
    if options.until == "checked":
        results["complete"] = True
        save()
    if options.report:
        folder = SOURCE / "docs/benchmarks"
        report(results, folder / "mutation.json", folder / "mutation.json", folder / "mutation.md")


if __name__ == "__main__":
    main()
