"""All attacks, played one after the other on a backend, with or without one protection each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from milepost.sandbox.attacks import files, kernel, neighbours, network, resources, rights, server
from milepost.sandbox.attacks.core import Attack, AttackError, Control
from milepost.sandbox.attacks.stage import Stage

ATTACKS: tuple[Attack, ...] = (
    *resources.ATTACKS,
    *server.ATTACKS,
    *files.ATTACKS,
    *kernel.ATTACKS,
    *rights.ATTACKS,
    *network.ATTACKS,
    *neighbours.ATTACKS,
)


@dataclass(frozen=True)
class Row:
    """What came of one attack on one backend."""

    name: str
    about: str
    refused: bool | None
    """None: it was not played."""
    detail: str


def play(backend: str, attacks: tuple[Attack, ...] = ATTACKS) -> Iterator[Row]:
    """Play attacks on one sandbox of a backend, which is as new for each.

    Raises:
        AttackError: One broke: it has no verdict.
        ValueError: The backend is not there.
    """
    with Stage(backend) as stage:
        for attack in attacks:
            try:
                verdict = attack.play(stage)
            except AttackError as error:
                raise AttackError(f"{attack.name} on {backend}: {error}") from None
            yield Row(attack.name, attack.about, verdict.refused, verdict.detail)
            stage.renew()


def control(backend: str, attack: Attack) -> Row | str:
    """Play an attack where the one protection that refuses it is missing; return why there is no such control.

    Raises:
        AttackError: It broke.
    """
    found = attack.control_on(backend)
    if not isinstance(found, Control):
        return found
    with Stage(backend, found) as stage:
        try:
            verdict = attack.play(stage)
        except AttackError as error:
            raise AttackError(f"control of {attack.name} on {backend}: {error}") from None
        return Row(attack.name, attack.about, verdict.refused, verdict.detail)
