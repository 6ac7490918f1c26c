"""What trains and what batch normalization does meanwhile, as stages and arms say it."""

import re

from bnadapt.config import PER_CHANNEL, STATISTICS, UPPER, StageSettings


def selector_mistakes(key: str, selectors: list[str]) -> list[str]:
    """What is wrong with what a stage trains, as far as it can be told without the network."""
    if not selectors:
        return [f"{key} is empty: name what trains, such as [batch_norm]"]
    uppers = [(selector, UPPER.fullmatch(selector)) for selector in selectors]
    drawn = [(selector, PER_CHANNEL.fullmatch(selector)) for selector in selectors]
    return [
        *(
            f"{key}={selector}: must be at least 1"
            for selector, match in drawn
            if match and int(match[1]) < 1
        ),
        *(
            f"{key}={selector}: must be above 0% and at most 100%"
            for selector, match in uppers
            if match and not 0 < float(match[1]) <= 100
        ),
        *bad_patterns(
            key, [selector for selector, match in uppers if not match and not PER_CHANNEL.fullmatch(selector)]
        ),
    ]


def switch_mistakes(key: str, stage: StageSettings) -> list[str]:
    """Settings of a stage that contradict what it trains."""
    mistakes = bad_patterns(f"{key}.batch_norm", list(stage.batch_norm))
    if STATISTICS in stage.train and len(stage.train) > 1:
        mistakes.append(
            f"{key}.train={stage.train}: statistics stands alone, because nothing trains by gradients then; "
            "make two stages of it"
        )
    if stage.prior and stage.train != [STATISTICS]:
        mistakes.append(f"{key}.prior={stage.prior:g} is used by train=[statistics] only")
    if stage.train == [STATISTICS] and (stage.find_rate or stage.layerwise_decay != 1):
        unused = "find_rate" if stage.find_rate else "layerwise_decay"
        mistakes.append(f"{key}.{unused} is not used by train=[statistics]: there is no learning rate")
    if stage.batch_norm and stage.train == [STATISTICS]:
        mistakes.append(f"{key}.batch_norm is not used by train=[statistics]: nothing trains")
    return mistakes


def bad_patterns(key: str, patterns: list[str]) -> list[str]:
    """Patterns that are no regular expressions."""
    mistakes = []
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            mistakes.append(f"{key}={pattern}: not a regular expression ({error})")
    return mistakes
