"""advice.json: how a bundle is best used, measured once it was made.

Nothing here is what edge and cloud must agree on: a bitstream is the same with or without it. So it
is no part of the manifest, nor of the bundle's id: files, spools and logs written before a bundle
had advice, or other advice, stay readable, and a bundle that is at work can be given it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import BundleError

ADVICE_NAME: Final = "advice.json"
MAX_ADVICE_BYTES: Final = 2**20
FORMAT: Final = "featherwire-advice/1"

Score = Annotated[float, Field(ge=0, le=1)]
Scores = Annotated[tuple[Score, ...], Field(min_length=1, max_length=64)]
"""One for each state, finest first."""


class _Part(BaseModel):
    # What a later release adds is for that: the rest can still be followed.
    model_config = ConfigDict(extra="ignore", frozen=True)


class ScoreThresholds(_Part):
    """From which score a task's findings are shown, at every state.

    Through a coarse state a network sees things that are not there, and is sure of them. A finding
    scored below its class's threshold is left out.
    """

    task: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    model: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the weights whose scores they are"
    )
    others: Scores = Field(description="of classes that are not named")
    classes: dict[str, Scores] = Field(default_factory=dict, max_length=10_000)

    def of(self, class_name: str, state: int) -> float:
        """The least score that is shown, 0..1. Raises IndexError for a state that there is not."""
        return self.classes.get(class_name, self.others)[state]


class Advice(_Part):
    """Advice on one bundle; without any there is no default state and no threshold."""

    format: Literal["featherwire-advice/1"] = FORMAT
    default_state: int | None = Field(
        default=None, ge=0, le=255, description="the finest that is worth its bits"
    )
    score_thresholds: tuple[ScoreThresholds, ...] = Field(default=(), max_length=64)
    task_decoder: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9-]{0,39}$",
        description="of the bundle's, whose pictures tasks look at; None is the first",
    )

    def thresholds(self, task: str, models: Iterable[str | None]) -> ScoreThresholds | None:
        """Those of a task whose scores come from weights of one of these SHA-256s."""
        known = set(models)
        for one in self.score_thresholds:
            if one.task == task and one.model in known:
                return one
        return None

    def for_edge(self) -> Advice:
        """What a device has a use for."""
        return self.model_copy(update={"score_thresholds": (), "task_decoder": None})

    def to_bytes(self) -> bytes:
        """The file; :meth:`parse` is the inverse."""
        values = self.model_dump(mode="json", exclude_none=True)
        text = json.dumps(values, indent=1, sort_keys=True)
        return (_rows_in_lines(text) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, states: int, decoders: Collection[str] = ()) -> Advice:
        """Read advice.json of a bundle of so many states. decoders: of pictures in which
        something may be found, by name.

        Raises BundleError ``bad_advice`` with what is wrong.
        """
        try:
            found = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "advice"
            raise BundleError("bad_advice", f"{ADVICE_NAME}: {where}: {first['msg']}") from None
        if found.default_state is not None and found.default_state >= states:
            raise BundleError(
                "bad_advice",
                f"{ADVICE_NAME}: default_state {found.default_state} of {states} states",
            )
        if found.task_decoder is not None and found.task_decoder not in decoders:
            known = ", ".join(decoders) or "none"
            raise BundleError(
                "bad_advice", f"{ADVICE_NAME}: task_decoder {found.task_decoder!r} of {known}"
            )
        for one in found.score_thresholds:
            for row in (one.others, *one.classes.values()):
                if len(row) != states:
                    raise BundleError(
                        "bad_advice",
                        f"{ADVICE_NAME}: {one.task} has {len(row)} thresholds for {states} states",
                    )
        return found


NO_ADVICE: Final = Advice()


def _rows_in_lines(text: str) -> str:
    """Indented JSON with every list of numbers in one line."""
    return re.sub(
        r"\[([\s\d.,]+)\]", lambda row: f"[{', '.join(row[1].replace(',', ' ').split())}]", text
    )
