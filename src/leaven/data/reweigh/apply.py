"""A finished order + the groups of its examples + settings -> the reweighed order and a table of what changed.

Mass is moved inside cells: with matched sources a cell is one source, otherwise the examples of one domain. Slots
whose example has no label (or that `truncate: drop` blanked) stay as they are. Weights, examples and lengths change;
the number of slots of every step never does, so that conditions pair slot by slot.
    reweight: every slot keeps its example and gets weight target / amount of its group; with matched tokens amounts are
        learned tokens, so that the loss mass of the levels is mirrored exactly.
    resample: slots of groups with too many give way to repetitions of examples that the order already holds.
    replace: to examples that it does not hold, of the same source, then of the pool.
Control random_swap: the same weights dealt out to random examples, or the same slots filled from their own group.
Not covered: settings that cannot fit (settings.py), influence (attribution/).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from leaven.core.rng import rng
from leaven.core.tables import EXAMPLES, REWEIGHED, read_table
from leaven.data.packing import pack_steps
from leaven.data.reweigh.influence import Scores, read_scores
from leaven.data.reweigh.matching import check_matched, fill_matched
from leaven.data.reweigh.slots import Candidates, Row, Slot, arriving, fill, leaving
from leaven.data.reweigh.targets import Group, by_shares, flip, tilt, whole
from leaven.data.rows import Rows
from leaven.errors import DataError

_OF_ROW = ("source", "example", "format", "start_token", "n_tokens", "n_learned_tokens", "pack", "cut_thought", "cut_code")
"""The columns of a line that come with its row (`pack` follows from lengths)."""


@dataclass(frozen=True, slots=True)
class Label:
    """What an example is grouped by, and the domain it belongs to; `group` is None for an example without a label."""

    group: Group | None
    domain: str


@dataclass(frozen=True, slots=True)
class Reweighed:
    """The new lines, REWEIGHED rows, and numbers for report.json."""

    lines: pl.DataFrame
    changes: pl.DataFrame
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reweighing:
    """What a stage asks for, and the labels of every example of its mixture; `apply` does it."""

    settings: Mapping[str, Any]
    stage: str
    seed: int
    labels: Mapping[tuple[str, str], Label]
    influence: Path | None = None

    def apply(self, lines: pl.DataFrame, rows: Mapping[str, Rows], pack: str, max_tokens: int | None) -> Reweighed:
        """Return the reweighed order.

        Args:
            lines: as `order_tables.order_lines` makes them.
            rows: source -> all rows that could fill a slot.
            pack: how rows share a packed row (packing changes with lengths).
            max_tokens: of a packed row.

        Raises:
            DataError: no example has a label, a group that should get slots has no candidates, or lengths cannot be matched.
        """
        work = _Work(self, lines, rows)
        for cell in work.cells:
            work.reweigh(cell)
        if self.settings["mode"] != "reweight" and pack == "best_fit" and max_tokens:
            work.columns["pack"] = pack_steps(lines["step"].to_numpy(), np.array(work.columns["n_tokens"]), max_tokens)
        columns = [pl.Series(name, values, dtype=lines.schema[name]) for name, values in work.columns.items()]
        return Reweighed(lines.with_columns(columns), pl.DataFrame(work.books, schema=REWEIGHED, orient="row"), work.report())


def load_reweighing(spec: Mapping[str, Any], inputs: Mapping[str, Path]) -> Reweighing | None:
    """Return what a step's spec asks for (None: nothing), with labels from its inputs "examples:SOURCE" and "influence"."""
    settings = spec.get("reweigh")
    if not settings:
        return None
    labels: dict[tuple[str, str], Label] = {}
    for source in spec["mixture"]:
        frame = read_table(Path(inputs[f"examples:{source}"]) / "examples.parquet", EXAMPLES)
        groups = {"source": [source] * frame.height, "example": frame["id"].to_list()}
        named = groups[settings["by"]] if settings["by"] in groups else frame[settings["by"]].to_list()
        for example, group, domain in zip(frame["id"], named, frame["domain"], strict=True):
            labels[source, example] = Label(None if group in (None, "") else group, domain)
    path = Path(inputs["influence"]) if "influence" in inputs else None
    return Reweighing(settings, str(spec["stage"]), int(spec["seed"]), labels, path)


class _Work:
    """The columns of an order while its cells are reweighed, one after the other."""

    def __init__(self, asked: Reweighing, lines: pl.DataFrame, rows: Mapping[str, Rows]) -> None:
        self.asked, self.settings, self.before, self.rows = asked, asked.settings, lines, rows
        self.columns: dict[str, list[Any]] = {name: lines[name].to_list() for name in (*_OF_ROW, "weight")}
        place = {(s, i, at): n for s, r in rows.items() for n, (i, at) in enumerate(zip(r.ids, r.start.tolist(), strict=True))}
        self.row_of: list[Row] = [(key[0], place[key]) for key in lines.select("source", "example", "start_token").iter_rows()]
        self.held = set(self.row_of)
        self.cells = self._cells()
        self.books: list[tuple[Any, ...]] = []
        self.facts: dict[str, Any] = {}
        self.scores: Scores = self._scores() if asked.influence is not None else {}

    def label(self, row: Row) -> Label | None:
        """Return the label of a row's example."""
        return self.asked.labels.get((row[0], self.rows[row[0]].ids[row[1]]))

    def _cells(self) -> dict[str, list[Slot]]:
        """Return the slots among which mass is moved, by cell."""
        chosen = self.settings["sources"] or [s for s in self.rows if s != self.settings["pool"]]
        matched = "source" in self.settings["match"]
        cells: dict[str, list[Slot]] = {}
        for line, row in enumerate(self.row_of):
            label = self.label(row)
            if label is not None and label.group is not None and self.columns["weight"][line] > 0 and row[0] in chosen:
                slot = Slot(line, row, label.group, self.columns["n_tokens"][line])
                cells.setdefault(row[0] if matched else label.domain, []).append(slot)
        if not cells:
            raise DataError(
                f"stage {self.asked.stage!r}: reweigh by {self.settings['by']}: expected labelled examples in {', '.join(chosen)}, found "
                "none; give the sources a `label` (difficulty, domain), or map the column with `fields`"
            )
        return dict(sorted(cells.items()))

    def _scores(self) -> Scores:
        """Return the influence of every example that takes part."""
        assert self.asked.influence is not None
        wanted: dict[str, set[str]] = {}
        for slots in self.cells.values():
            for source, number in (s.row for s in slots):
                wanted.setdefault(source, set()).add(self.rows[source].ids[number])
        return read_scores(self.asked.influence, wanted, self.settings["method"], self.settings["query"])

    def reweigh(self, cell: str) -> None:
        """Reweigh the slots of one cell and note what changed."""
        slots, weighing = self.cells[cell], self.settings["mode"] == "reweight"
        tokens = "tokens" in self.settings["match"]
        amounts: dict[Group, float] = {}
        for slot in slots:
            counted = self.columns["n_learned_tokens"][slot.line] if weighing and tokens else 1
            amounts[slot.group] = amounts.get(slot.group, 0) + counted
        before = self._sums(slots)
        targets = self._targets(slots, amounts)
        changed = self._weigh(cell, slots, amounts, targets) if weighing else self._swap(cell, slots, targets, tokens=tokens)
        after = self._sums(slots)
        none = np.zeros(4)
        for group in sorted({*before, *after, *targets}, key=lambda g: (isinstance(g, str), g)):
            pairs = np.stack([before.get(group, none), after.get(group, none)], axis=1).ravel().tolist()
            self.books.append((cell, str(group), *pairs, float(targets.get(group, 0.0)), changed.get(group, 0)))

    def _sums(self, slots: Sequence[Slot]) -> dict[Group, np.ndarray]:
        """Return group -> slots, sum of weights, learned tokens, learned tokens x weight of what stands in these slots now."""
        sums: dict[Group, np.ndarray] = {}
        for slot in slots:
            label = self.label(self.row_of[slot.line])
            assert label is not None and label.group is not None
            weight, tokens = self.columns["weight"][slot.line], self.columns["n_learned_tokens"][slot.line]
            sums[label.group] = sums.get(label.group, np.zeros(4)) + (1, weight, tokens, weight * tokens)
        return sums

    def _targets(self, slots: Sequence[Slot], amounts: Mapping[Group, float]) -> dict[Group, float]:
        """Return how much each group should have."""
        match self.settings["how"]:
            case "flip":
                low, high = self.settings["range"] or (None, None)
                return dict(flip({int(g): a for g, a in amounts.items()}, low, high))
            case "target":
                return by_shares(amounts, self.settings["target"])
        examples: dict[Group, set[tuple[str, str]]] = {}
        for slot in slots:
            examples.setdefault(slot.group, set()).add((slot.row[0], self.rows[slot.row[0]].ids[slot.row[1]]))
        means = {g: float(np.mean([self.scores[e] for e in sorted(members)])) for g, members in examples.items()}
        weights = tilt(means, amounts, self.settings["tau"], self.settings["floor"])
        return {g: weights[g] * amounts[g] for g in amounts}

    # ---- weights ------------------------------------------------------------------------------------------------------

    def _weigh(self, cell: str, slots: Sequence[Slot], amounts: Mapping[Group, float], targets: Mapping[Group, float]) -> Counter[Group]:
        """Multiply the weights of slots; return how many of each group changed."""
        empty = sorted((g for g, t in targets.items() if t > 0 and not amounts.get(g)), key=str)
        if empty:
            raise DataError(
                f"stage {self.asked.stage!r}: reweigh: expected examples of {self.settings['by']} {', '.join(map(str, empty))} in {cell}, "
                "which should get weight, found none; leave `range` out, or use mode: replace with a pool"
            )
        factor = {slot.row: targets.get(slot.group, 0.0) / amounts[slot.group] if amounts[slot.group] else 1.0 for slot in slots}
        if self.settings["control"] == "random_swap":
            rows = sorted(factor)
            order = rng(self.asked.seed, "reweigh", self.asked.stage, cell, "control").permutation(len(rows))
            factor = {row: factor[rows[i]] for row, i in zip(rows, order.tolist(), strict=True)}
        changed: Counter[Group] = Counter()
        for slot in slots:
            self.columns["weight"][slot.line] *= factor[slot.row]
            changed[slot.group] += abs(factor[slot.row] - 1) > 1e-9
        return changed

    # ---- examples -----------------------------------------------------------------------------------------------------

    def _swap(self, cell: str, slots: Sequence[Slot], targets: Mapping[Group, float], *, tokens: bool) -> Counter[Group]:
        """Put other rows into slots; return how many of each group gave way."""
        seed, stage = self.asked.seed, self.asked.stage
        wanted = whole(targets, len(slots))
        gone = leaving(slots, wanted, seed, stage, cell)
        coming = arriving(slots, wanted, gone, seed, stage, cell)
        candidates, total = self._candidates(cell, slots), self._tokens(slots)
        arm: tuple[str, ...] = (stage, cell, "treatment")
        exchanged: dict[int, Row] = {}
        given_up = {s.line for s in gone}
        if tokens:
            staying = [s for s in slots if s.line not in given_up]
            rows, exchanged = fill_matched(gone, coming, staying, candidates, seed, *arm)
        if self.settings["control"] == "random_swap":  # every slot that the intervention changes gets another example of its own group
            gone = [s for s in slots if s.line in exchanged or s.line in given_up]
            own, arm = [s.group for s in gone], (stage, cell, "control")
            rows = fill_matched(gone, own, [], candidates, seed, *arm)[0] if tokens else fill(gone, own, candidates, seed, *arm)
            exchanged = {}
        elif not tokens:
            rows = fill(gone, coming, candidates, seed, *arm)
        for line, row in (*((s.line, r) for s, r in zip(gone, rows, strict=True)), *exchanged.items()):
            self._put(line, row)
        if tokens:
            check_matched(total, self._tokens(slots), f"stage {stage!r}, {cell}")
        changed = [s for s in slots if self.row_of[s.line] != s.row]
        from_pool = sum(self.row_of[s.line][0] == self.settings["pool"] for s in slots)
        distinct = len({self.row_of[s.line] for s in slots})
        self.facts[cell] = {"tokens_before": total, "tokens_after": self._tokens(slots), "changed": len(changed), "from_pool": from_pool,
                            "exchanged_for_length": len(exchanged), "distinct_examples": distinct}  # fmt: skip
        return Counter(slot.group for slot in changed)

    def _tokens(self, slots: Sequence[Slot]) -> int:
        return sum(self.columns["n_tokens"][s.line] for s in slots)

    def _candidates(self, cell: str, slots: Sequence[Slot]) -> Candidates:
        """Return what may come into a cell: rows that its slots hold (resample), or rows that no slot holds (replace)."""
        resample, pool = self.settings["mode"] == "resample", self.settings["pool"]
        inside, sources = {s.row for s in slots}, {s.row[0] for s in slots}
        matched = "source" in self.settings["match"]
        own: dict[Group, list[Row]] = {}
        reserve: dict[Group, list[Row]] = {}
        tokens: dict[Row, int] = {s.row: s.tokens for s in slots}
        for source in sorted({*sources, *((pool,) if pool else ())}):
            for number, kept in enumerate(self.rows[source].kept.tolist()):
                row = (source, number)
                label = self.label(row)
                if not kept or label is None or label.group is None or (row not in inside if resample else row in self.held):
                    continue
                tokens[row] = int(self.rows[source].n[number])
                if source == pool and (label.domain == cell or not (label.domain and cell)):
                    reserve.setdefault(label.group, []).append(row)
                elif source != pool and (matched or label.domain == cell):
                    own.setdefault(label.group, []).append(row)
        return Candidates(own, tokens, reserve, repeats=resample, by=self.settings["by"])

    def _put(self, line: int, row: Row) -> None:
        """Put a row into a slot; the slot's weight stays."""
        source, number = row
        rows = self.rows[source]
        self.columns["source"][line], self.columns["example"][line], self.columns["format"][line] = source, rows.ids[number], rows.format
        for name, values in (("start_token", rows.start), ("n_tokens", rows.n), ("n_learned_tokens", rows.n_learned),
                             ("cut_thought", rows.cut_thought), ("cut_code", rows.cut_code)):  # fmt: skip
            self.columns[name][line] = int(values[number])
        self.row_of[line] = row
        self.held.add(row)

    def report(self) -> dict[str, Any]:
        """Return numbers for report.json."""
        taking_part = sum(map(len, self.cells.values()))
        pooled = sum(facts["from_pool"] for facts in self.facts.values())
        return {
            **json.loads(json.dumps(dict(self.settings))),
            "slots": taking_part,
            "slots_left_alone": self.before.height - taking_part,
            "source_matched": "source" in self.settings["match"] and not pooled,
            "cells": self.facts,
        }
