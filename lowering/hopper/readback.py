"""Does what the compiler was given, and made, synchronise as the asynchronous program says?

Reads two stages of the compiled kernel. In Triton's own form (TTGIR), which still has loops and branches, each
partition's barriers, copies and dots must come in exactly the order and nesting of the asynchronous program's
statements, with the bytes of its tiles and its numbers of dots left in flight. In the assembly (PTX), every arrival at
a barrier must stand behind a barrier of the consumer's warps, with no use of shared memory between: that is what makes
one thread's arrival speak for all of them (so in Triton 3.6.0 and 3.7.1; this notices if it ever is not).

The machine code shows whether the assembler kept dots in flight: where it runs out of registers, or finds an
accumulator in use, it closes and waits for every instruction of a dot, and says so only in its log. Such a kernel is
right and slower than one without any of this.

A kernel that differs is refused. Which slot and which parity a statement names is not read here: the emitted text is
run for that (`lowering.hopper.emulated`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowering.hopper.async_program import AsyncKernel, Statement

Script = list[Any]  # of one partition: "wait", "copy", ..., and for a loop or branch ["for" or "if", ...]

_EVENTS = (
    (re.compile(r"ttng\.wait_barrier\b"), "wait"),
    (re.compile(r"ttng\.arrive_barrier %\S+, (\d+)"), "arrive {}"),
    (re.compile(r"ttng\.barrier_expect %\S+, (\d+)"), "expect {}"),
    (re.compile(r"ttng\.async_tma_copy_global_to_local\b"), "copy"),
    (re.compile(r"ttng\.warp_group_dot .*isAsync = true"), "dot"),
    (re.compile(r"ttng\.warp_group_dot "), "dot, waited for"),
    (re.compile(r"ttng\.warp_group_dot_wait .*pendings = (\d+)"), "dots left {}"),
    (re.compile(r"ttng\.fence_async_shared\b"), "fence"),
    (re.compile(r"ttg\.local_store\b"), "write"),
)
_PARTITION = re.compile(r"partition\d+\(")
_BLOCK = re.compile(r"\bscf\.(for|if|while)\b.*\{$")
_ARRIVE = re.compile(r"mbarrier\.arrive\.shared")
_TOGETHER = re.compile(r"\bbar\.sync|\bbarrier\.sync")
_GROUP = re.compile(r"wgmma\.commit_group\.")
_PRODUCT = re.compile(r"wgmma\.mma_async\.")
_HGMMA = re.compile(r"\bHGMMA\.(.*)")
_WORK = re.compile(r"wgmma\.|ld\.shared|ldmatrix|st\.shared|stmatrix|mbarrier\.try_wait")


# ---- what must be there ----------------------------------------------------------------------


def expected(kernel: AsyncKernel) -> dict[str, Any]:
    """What a kernel's compiled stages must hold, as JSON: part of its launch."""
    from lowering.hopper.emission import single

    once = {r.name for r in kernel.rings if single(kernel, r)}
    barriers = Counter({"1": sum(r.stages for r in kernel.rings if not r.written)})
    barriers[str(kernel.teams)] += sum(r.stages * (r.written + (r.name not in once)) for r in kernel.rings)
    return {
        "barriers": dict(barriers),
        "producer": _script(kernel, kernel.producer, once),
        "consumers": [_script(kernel, kernel.consumer, once)] * kernel.teams,
    }


def _script(kernel: AsyncKernel, statements: tuple[Statement, ...], once: set[str]) -> Script:
    from lowering.hopper.async_program import (
        Copy,
        If,
        IssueDot,
        Loop,
        Read,
        Release,
        WaitDots,
        WaitEmpty,
        WaitFull,
        Write,
    )
    from lowering.plan import walk

    read = {n.tile.ring for n in walk(kernel.consumer) if isinstance(n, Read)}
    script: Script = []
    flying = 0  # none at the edges of a block
    for s in statements:
        match s:
            case WaitFull():
                script.append("wait")
            case WaitEmpty(ring=ring) if ring not in once:
                script.append("wait")
            case Copy(ring=ring):
                script += [f"expect {kernel.ring(ring).tile_bytes}", "copy"]
            case Write():
                script += ["write", "fence", "arrive 1"]
            case Release(ring=ring):
                script += [*(["fence"] if ring in read else []), "arrive 1"]
            case IssueDot():
                script.append("dot")
                flying += 1
            case WaitDots(pending=pending) if flying > pending:
                script.append(f"dots left {pending}")
                flying = pending
            case Loop(body=body) | If(body=body):
                inner = _script(kernel, body, once)
                if inner:
                    script.append(["for" if isinstance(s, Loop) else "if", *inner])
    return script


# ---- what is there ---------------------------------------------------------------------------


def found(ttgir: str) -> dict[str, Any]:
    """The same of a kernel in TTGIR."""
    frame, parts, inside = "", [""], False  # the last partition is the producer's, the one before them the first team's
    for line in ttgir.splitlines():
        opened = line.strip()
        if opened == "default {" or _PARTITION.match(opened):
            parts.append("")
            inside = True
        if inside:
            parts[-1] += line + "\n"
        else:
            frame += line + "\n"
        inside = inside and not opened.startswith(("ttg.warp_yield", "ttg.warp_return"))
    return {
        "barriers": dict(Counter(re.findall(r"ttng\.init_barrier %\S+, (\d+)\b", frame))),
        "producer": _read(parts[-1]),
        "consumers": [_read(part) for part in parts[1:-1]],
    }


def _read(text: str) -> Script:
    """The events of a partition, nested as its loops and branches are; MLIR prints one operation a line, a region's end
    at the indentation of its operation."""
    top: Script = []
    open_: list[tuple[int, Script]] = [(-1, top)]
    for line in text.splitlines():
        indent, words = len(line) - len(line.lstrip()), re.sub(r"\s*loc\(.*$", "", line).strip()
        if words.startswith("}") and indent == open_[-1][0]:
            if words.startswith("} else"):
                open_[-1][1].append("else")
                continue
            _, block = open_.pop()
            if block[-1] == "else":
                block.pop()
            if len(block) > 1:
                open_[-1][1].append(block)
        elif block_ := _BLOCK.search(words):
            open_.append((indent, [block_.group(1)]))
        else:
            for pattern, event in _EVENTS:
                if match := pattern.search(words):
                    open_[-1][1].append(event.format(*match.groups()))
                    break
    return _required(top)


def _required(script: Script) -> Script:
    """Without fences that stand before no arrival: the compiler may add some."""
    kept = [s for s, after in zip(script, [*script[1:], ""], strict=True) if s != "fence" or str(after)[:6] == "arrive"]
    return [_required(s) if isinstance(s, list) else s for s in kept]


def differences(wanted: Mapping[str, Any], ttgir: str, ptx: str) -> list[str]:
    """In words, how a compiled kernel differs from what is `expected`; empty where it does not."""
    got = found(ttgir)
    texts = [f"{name} has {got[name]}, not {wanted[name]}" for name in wanted if got[name] != wanted[name]]
    bare = _bare_arrivals(ptx)
    if bare:
        texts.append(f"{bare} arrivals without a barrier of the warps before them")
    return texts


def serialised(ptx: str, machine_code: str) -> bool:
    """Whether the assembler made a group of its own of every wgmma, where the program has groups of several."""
    groups, products = len(_GROUP.findall(ptx)), len(_PRODUCT.findall(ptx))
    instructions = _HGMMA.findall(machine_code)
    return groups < products and bool(instructions) and all("gsb0" in operands for operands in instructions)


def _bare_arrivals(ptx: str) -> int:
    """Arrivals between which and the last barrier of the warps there is a use of shared memory, or no barrier."""
    bare, together = 0, False
    for line in ptx.splitlines():
        if _TOGETHER.search(line):
            together = True
        elif _ARRIVE.search(line):
            bare += not together
        elif _WORK.search(line) or line.startswith("$"):
            together = False
    return bare
