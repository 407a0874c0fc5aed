"""The answers in plain sentences, computed from the scores alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.compare import (
    CEILING_HEAD,
    FLOOR_HEAD,
    Comparison,
    Evidence,
    cell_label,
    cells,
    reference_of,
)
from lary_policy.report.correlate import Panel
from lary_policy.report.parts import ConstantDimension
from lary_policy.scores import Score, format_score, join_words

_MAX_LISTED = 4


@dataclass(frozen=True)
class Statement:
    """One sentence about one cell.

    Attributes:
        label: Which cell.
        text: The sentence.
        encoder: The best encoder.
        conclusive: The best is told apart from all others.
    """

    label: str
    text: str
    encoder: str
    conclusive: bool


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        question: The question.
        verdict: One sentence over all cells.
        statements: One sentence a cell.
    """

    question: str
    verdict: str
    statements: tuple[Statement, ...]

    @property
    def length(self) -> int:
        """How many cells it is about."""
        return len(self.statements)


def answers(bundle: ReportBundle, panels: Sequence[Panel]) -> tuple[Answer, ...]:
    """Answer which latents decode action better, whose head succeeds, and whether the two agree."""
    evidence = Evidence.of(bundle.measured)
    mse, top1 = (cells(bundle.scores, "probe", metric, evidence) for metric in ("mse", "top1"))
    success = cells(bundle.scores, "rollout", "success", evidence)
    lowest, best = "the lowest test MSE", "the highest top-1 accuracy"
    found, alone = [], len(bundle.encoders()) == 1
    if mse or not top1:
        found.append(
            Answer(
                "How well do its latents decode action?" if alone else "Whose latents decode action better?",
                _verdict(mse, f"has {lowest}", "No probe error was measured."),
                tuple(_statement(c, mse, f"has {lowest}", bundle) for c in mse),
            )
        )
    if top1:
        found.append(
            Answer(
                "How well do its latents name the motion?"
                if alone
                else "Whose latents name the motion better?",
                _verdict(top1, f"has {best}", ""),
                tuple(_statement(c, top1, f"has {best}", bundle) for c in top1),
            )
        )
    if not bundle.closed_loop:
        return tuple(found)
    verb = "succeeds most often"
    found.append(
        Answer(
            f"{'Does its head make' if alone else 'Whose head makes'} the robot succeed in closed loop?",
            _verdict(success, verb, "No closed-loop episode was run.") + _above_floor(success, bundle),
            tuple(_success_statement(c, success, verb, bundle) for c in success),
        )
    )
    found.append(Answer("Does the probe score foretell success?", agreement(panels), ()))
    return tuple(found)


_NAMED = 6  # encoders named in the heading; the table has all


def question(bundle: ReportBundle) -> str:
    """Return the question of the page with the encoders that were compared."""
    names = list(bundle.encoders())
    who = f"Of {len(names)} encoders and views"
    if len(names) <= _NAMED:
        who = f"Of {join_words(names)}" if names else "Of no encoder at all (this report holds no scores)"
    if len(names) == 1:
        loop = ", and does its head make the robot succeed in closed loop" if bundle.closed_loop else ""
        return f"{who}: how well do its latents tell of actions{loop}?"
    if not bundle.closed_loop:
        return f"{who}: whose latents tell more about actions?"
    return (
        f"{who}: whose latents decode action better, and whose head makes the robot succeed in closed loop?"
    )


def constants(dims: Sequence[ConstantDimension]) -> str:
    """Return which numbers of actions never change, by task."""
    labels = {
        task: sorted({d.label for d in dims if d.task == task})
        for task in dict.fromkeys(d.task for d in dims)
    }
    found = [f"{join_words(names)} of {task}" for task, names in labels.items()]
    more = [f"{len(found) - _MAX_LISTED} further tasks (below)"] if len(found) > _MAX_LISTED else []
    return "; ".join([*found[:_MAX_LISTED], *more])


def agreement(panels: Sequence[Panel]) -> str:
    """Say in how many cells the encoder with the lowest MSE is also the one that succeeds most."""
    usable = [p for p in panels if len(p.points) > 1]
    if not usable:
        return "No task has both a probe score and a closed-loop score for two or more encoders."
    same = sum(_same_winner(p) for p in usable)
    pairs, agreeing = sum(p.pairs for p in usable), sum(p.agreeing for p in usable)
    counted = f"{agreeing} of the {pairs} pairs of encoders that differ in both are in the same order"
    counted = counted if pairs else "no pair of encoders differs in both"
    return (
        f"The encoder with the lowest test MSE also succeeds most often (or shares that place, above none) "
        f"in {same} of {len(usable)} task and mode {_plural(len(usable), 'cell')}; {counted}."
    )


def _same_winner(panel: Panel) -> bool:
    lowest = min(p.probe.value for p in panel.points)
    highest = max(p.success.value for p in panel.points)
    return any(p.probe.value == lowest and p.success.value == highest > 0 for p in panel.points)


def _verdict(found: Sequence[Comparison], verb: str, empty: str) -> str:
    """Sum the cells up: who wins how many, and how many of these wins the intervals support."""
    compared = [c for c in found if len(c.scores) > 1]
    if not compared:
        return "Only one encoder was measured: there is nothing to compare." if found else empty
    wins = Counter(c.best.encoder for c in compared if not c.tied())
    clear = Counter(c.best.encoder for c in compared if not c.near())
    total = f"{len(compared)} {_plural(len(compared), 'comparison')}"
    leaders = [name for name, count in wins.items() if count == max(wins.values())]
    if len(leaders) != 1:
        parts = [f"{n} {verb} in {wins[n]}" for n in leaders]
        ending = join_words(parts) if parts else "all end in ties"
        return f"No encoder stands out: of {total}, {ending}."
    leader = leaders[0]
    support = "all" if clear[leader] == wins[leader] else str(clear[leader]) if clear[leader] else "none"
    told = "it is told apart from" if all(c.paired() for c in compared) else "its interval is clear of"
    others = "every other encoder" if all(c.paired() for c in compared) else "every other encoder's"
    return f"{leader} {verb} in {wins[leader]} of {total}; {told} {others} in {support} of these."


def _statement(
    cell: Comparison, siblings: Sequence[Comparison], verb: str, bundle: ReportBundle
) -> Statement:
    """State who is best in a cell and which intervals overlap with it."""
    label, best = cell_label(cell, siblings), cell.best
    missing = [n for n in bundle.encoders() if n not in {s.encoder for s in cell.scores}]
    absent = f" Not measured here: {join_words(missing)}." if missing else ""
    if len(cell.scores) == 1:
        text = f"only {best.encoder} was measured, {format_score(best)}: nothing to compare.{absent}"
        return Statement(label, text, best.encoder, False)
    near, far, tied = cell.near(), cell.far(), cell.tied()
    if tied:
        names = join_words([best.encoder, *(s.encoder for s in tied)])
        text = f"{names} are level at {format_score(best)}"
        rest = [s for s in near if s not in tied]
        tail = [f"overlapping with {_listed(rest)}"] if rest else []
        tail += [f"clear of {_listed(far)}"] if far else []
        text = f"{text}{', ' if tail else ''}{join_words(tail) if tail else ''}.{absent}"
        return Statement(label, text, best.encoder, False)
    text = f"{best.encoder} {verb}, {format_score(best)}"
    return Statement(label, text + _support(cell) + absent, best.encoder, not near)


def _support(cell: Comparison) -> str:
    """Say which of the others the best of a cell is told apart from."""
    near, far = cell.near(), cell.far()
    if cell.paired():
        same = "episodes" if cell.best.stage == "rollout" else "samples"
        if not near:
            return f"; over the same {same} it is told apart from {_listed(far)}."
        text = f", but over the same {same} it is not told apart from {_listed(near, 'or')}."
        return text + (f" It is from {_listed(far)}." if far else "")
    if not near:
        return f"; its interval does not overlap with {_listed(far, 'or')}."
    unknown = [s for s in (cell.best, *near) if not s.supports_claims]
    why = "too few recordings lie behind" if unknown else "its interval overlaps with"
    text = f", but {why} {_listed(unknown or near)}: this run does not tell them apart."
    return text + (f" It does not overlap with {_listed(far, 'or')}." if far else "")


def _success_statement(
    cell: Comparison, siblings: Sequence[Comparison], verb: str, bundle: ReportBundle
) -> Statement:
    """Like `_statement`, with the random head and the scripted expert named as floor and ceiling."""
    base = _statement(cell, siblings, verb, bundle)
    floor, ceiling = (reference_of(bundle.scores, cell, head) for head in (FLOOR_HEAD, CEILING_HEAD))
    extra = ""
    if floor is None or ceiling is None:
        names = [n for n, s in (("random head", floor), ("scripted expert", ceiling)) if s is None]
        extra += f" No {join_words(names, 'and no')} was run here."
    if floor is not None:
        same = "" if cell.evidence.apart(cell.best, floor) else ", not told apart from the best"
        extra += f" Random head: {format_score(floor)}{same}."
    if ceiling is not None:
        extra += f" Scripted expert: {format_score(ceiling)}."
    return Statement(base.label, base.text + extra, base.encoder, base.conclusive)


def _above_floor(found: Sequence[Comparison], bundle: ReportBundle) -> str:
    """Say in how many cells the best head is told apart from a random one."""
    floors = [(c, reference_of(bundle.scores, c, FLOOR_HEAD)) for c in found]
    known = [(c, f) for c, f in floors if f is not None]
    above = sum(f.value < c.best.value and c.evidence.apart(c.best, f) for c, f in known)
    ending = f"{len(known)} {_plural(len(known), 'cell')}"
    return f" The best head is told apart from a random one in {above} of {ending}." if known else ""


def _listed(scores: Sequence[Score], last: str = "and") -> str:
    """List scores; beyond four only the first two are spelled out, the tables have the rest."""
    shown = scores if len(scores) <= _MAX_LISTED else scores[:2]
    words = [f"{s.encoder} {format_score(s)}" for s in shown]
    rest = len(scores) - len(shown)
    return join_words([*words, f"{rest} more encoders"] if rest else words, last)


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
