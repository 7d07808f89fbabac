"""Does the asynchronous program keep its protocol: for every trip count, in every order of events?

Decides, for an `AsyncKernel`, that no wait waits for ever, no slot is overwritten while it may be read, nothing is read
before its copy is complete, no dot's result is used before the dot is retired, and nothing is in flight at the end;
the contract is the page `lowering.hopper.async_program`. The answer is `Verified`, or a `Violation` with a short
order of events that shows it.

**Method.** The reachable states of the two partitions are enumerated. A state is where each partition is, how many
copies, waits and releases of each ring there were, which dots are not retired, and what is known of loop lengths. Loop
lengths are unknown integers: the first partition that asks whether a loop goes on gets both answers, the other one the
same answer where it asks the same question. There are infinitely many states, but what can happen next depends only on
differences: fills issued, waited for and released; a counter and where the slower partition is on the same line; and
of a length, whether it exceeds the few constants that peeled loops compare it with. So a state is stored under its
differences (`lowering.hopper.states`), and not followed when one with the same differences has been. If that is no
finite matter, the kernel is refused at `lowering.hopper.explore.LIMIT` states. Hence "every trip count".

**Why one order of steps is enough** (`Order.LEVEL`: the partition that is behind goes first). Given the loop lengths
each partition does one sequence of steps. A partition can only be held up by a count that the other one raises and
never lowers: so a step that can be taken can still be taken after any step of the other partition, and the two may be
swapped. Hence all orders that go on while they can make the same steps and end in the same state: all of them
deadlock, or none. And every other rule below is about the history of one partition alone: of the producer, that it
waited for the slot it fills to be empty; of the consumer, what it waited for, released and issued. `Order.EVERY` does
without this argument, and without the rule for the producer: it tries all orders and looks who may read the slot then.

**Why the steps are what can happen.**
- A copy has no step for its landing: only a wait on its `full` barrier can tell, so landing is put just before that
  wait, and until then the slot counts as being written. Likewise a dot retires when a `WaitDots` says so, and until
  then it counts as reading its operands and writing its result: what may happen at any time happens at the worst.
- Copies, waits and releases are numbered by counting, so slots and parities need no state: in every state reached,
  released <= waited for <= copied (or written) <= released + stages, of each ring. Hence at a wait for completion
  number c of a barrier, c or c + 1 completions have happened, never fewer or more, and the parity that c implies tells
  these apart.
- If no order of steps has a conflict, then ordering by barriers alone is what the hardware guarantees: a program
  without data races behaves as if its steps were interleaved (PTX ISA, Memory Consistency Model).
- Termination: each partition executes finitely many statements for given sizes, and no state without a next step is
  reachable before both have ended.
- A consumer of several warps is one partition: all of them execute the same statements, each waits for itself, and a
  release counts once all of them have come to it (a barrier of the partition before the one arrival), so the
  slowest warp is the one that is modelled.
- So is a consumer of several teams, whose release (or write) number k has happened when every team has executed it.
  All teams execute one sequence of statements: no scalar, hence no loop, depends on a team's rows
  (`lowering.hopper.writer.NotByRows`). Take the one that has come least far in it, and the producer. Every team has
  executed what this one has, so a count over all teams is its own: the two are in a state of a consumer of that team
  alone, which is explored, and not stuck. So no deadlock, with written rings too: whoever waits for a team waits for
  one that can go on. A team reads only what it has not released, and its release is needed for the next copy. A team's
  second arrival at a barrier comes after a wait for a phase that needed the first arrivals of all, be it a copy's or
  its own, so each phase has one arrival of every team.
- Rows of a written tile pass between teams. Team A's dots read fill k after A's `WaitFull` k, hence after every team's
  `Write` k. Team B writes into that slot again after B's `WaitEmpty`, hence after A's `Release` k, hence after A's dots
  that read it are retired. Each of these is a rule about one team's own history: a `Write` that reuses a slot without
  a `WaitEmpty` of its own is refused in every order of steps, though a lone team would not notice, and so are a read
  without `WaitFull` and a release under a dot. A test tries two teams and a producer in every order instead, on all
  small changes of a right program.

**Assumed of the hardware** (PTX ISA 8.x and 9.0, by section):
- "Parallel Synchronization: mbarrier": a phase completes when its expected arrivals have come and its transaction count
  is zero; `try_wait.parity` returns true when the phase of that parity is complete; arrive has release and wait
  acquire semantics; both barriers of a slot are initialised, with a fence, before either partition starts.
- "cp.async.bulk.tensor" with `mbarrier::complete_tx::bytes`: the bytes written, cells outside the tensor included,
  are counted on the barrier, and are visible to who waited for that phase; the copy writes in the async proxy.
- "wgmma.mma_async", "wgmma.wait_group": groups complete in the order committed; until then registers of the accumulator
  and of operand A, and the shared operands, must not be touched; completion makes results visible.
- "Async proxy": what ordinary stores wrote is visible to dots after a proxy fence of the lanes that stored and a
  barrier; a slot read by ordinary loads (`Read`) and then given to a copy needs a proxy fence before its release; the
  emitted text must have both (`lowering.hopper.readback` looks).
"""

from __future__ import annotations

import time

from lowering.hopper.async_program import AsyncKernel
from lowering.hopper.explore import Explorer, Order
from lowering.hopper.verdict import Rule, Verified, Violation
from lowering.hopper.wellformed import defects


class ProtocolViolated(Exception):
    """The asynchronous program breaks its protocol; nothing may be emitted from it."""


def verify(kernel: AsyncKernel, order: Order = Order.LEVEL) -> Verified | Violation:
    """Explore the states of `kernel`; see the module docstring."""
    begun = time.perf_counter()
    found = defects(kernel)
    if found:
        return Violation(Rule.MALFORMED, found[0])
    explorer = Explorer(kernel, order)
    violation = explorer.explore()
    if violation and violation.rule is Rule.OVERWRITTEN and order is Order.LEVEL:
        seen = verify(kernel, Order.SLOW_CONSUMER)  # to name a reader
        return seen if isinstance(seen, Violation) and seen.rule is Rule.OVERWRITTEN else violation
    if violation:
        return violation
    sources = {use: frozenset(found) for use, found in explorer.sources.items()}
    return Verified(len(explorer.found), time.perf_counter() - begun, sources)


def require(kernel: AsyncKernel) -> Verified:
    """The `Verified` of `kernel`; raises ProtocolViolated."""
    verdict = verify(kernel)
    if isinstance(verdict, Violation):
        raise ProtocolViolated(f"{kernel.name}: {verdict}")
    return verdict
