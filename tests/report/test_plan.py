"""The plan, as text of 80 columns."""

import io

from rich.console import Console

from bnadapt.report.plan import PlanStage, plan
from bnadapt.surgery.sites import Site


def site(number: int) -> Site:
    return Site(
        layer=f"backbone/conv{number}",
        layer_type="Conv2D",
        channels=32,
        axis=-1,
        position="before_activation",
        name=f"conv{number}_inserted_bn",
    )


STAGES = [
    PlanStage("baseline", "10 epochs", 1e-3, "all", 118282, ""),
    PlanStage("insert", "", None, "", 0, "calibrated"),
    PlanStage("adapt", "5 epochs", 1e-4, "batch_norm", 768, "batch, then re-estimated"),
]


def printed(sites: list[Site], passed_over: dict[str, str], stages: list[PlanStage]) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=80).print(plan(sites, passed_over, stages))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    return lines


def test_layers_reasons_and_stages_are_told() -> None:
    reasons = {"[head]": "it is the head"} | {f"res{number}": "already normalized" for number in range(9)}
    lines = printed([site(1), site(2)], reasons, STAGES)
    assert lines[0] == "Batch normalization goes into 2 layers"
    assert lines[3].split() == ["backbone/conv1", "Conv2D", "32", "before", "the", "activation"]
    text = "\n".join(lines)
    assert "[head]                             it is the head" in text
    assert "res0, res1, res2, res3 and 5 more  already normalized" in text
    stages = [line.split() for line in lines[-3:]]
    assert stages == [
        ["baseline", "10", "epochs", "0.001", "all", "118,282", "-"],
        ["insert", "-", "-", "-", "0", "calibrated"],
        ["adapt", "5", "epochs", "0.0001", "batch_norm", "768", "batch,", "then", "re-estimated"],
    ]


def test_many_layers_are_counted_instead_of_listed() -> None:
    lines = printed([site(number) for number in range(60)], {}, [])
    assert len(lines) == 1 + 2 + 24 + 1
    assert lines[-1].split() == ["and", "36", "more", str(36 * 32)]


def test_no_layer_at_all() -> None:
    assert printed([], {}, []) == ["Batch normalization goes into no layer"]


def test_long_layer_names_are_folded_not_lost() -> None:
    long = Site("a" * 70, "Conv2D", 8, -1, "after_activation", "x")
    lines = printed([long], {}, [])
    assert sum(line.count("a") for line in lines[3:]) - "after the activation".count("a") == 70
