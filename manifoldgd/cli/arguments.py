"""A command line: options anywhere among the overrides, as Hydra's users type them."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from manifoldgd.cli.targets import KEY, read_allowed
from manifoldgd.errors import UserError, require
from manifoldgd.study.definition import override
from manifoldgd.study.definition import spelled as spelled_text

# Hydra's options by all their names, the first being the one handed on.
ALONE = {"--help": ("-h",), "--hydra-help": (), "--resolve": (), "--run": ("-r",), "--multirun": ("-m",)}
WITH_VALUE = {"--cfg": ("-c",), "--package": ("-p",), "--config-dir": ("-cd",), "--info": ("-i",)}
NAMES = {each: name for name, short in {**ALONE, **WITH_VALUE}.items() for each in (name, *short)}
CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
SHOWING = ("--help", "--hydra-help", "--cfg", "--info")  # print something and run nothing
DRY_RUN = "--dry-run"
LONGEST_RANGE = 100_000  # jobs
SCHEDULER = "scheduler/scheduler_config.json"
FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"  # of diffusers, which a prior that is a flow names


@dataclass(frozen=True)
class Arguments:
    """What follows the command word."""

    options: tuple[tuple[str, str | None], ...]  # Hydra's, each with its value
    overrides: tuple[str, ...]
    allowed: tuple[str, ...]  # what the configuration may build beside what is registered

    @property
    def shows(self) -> bool:
        """Whether something is to be printed, and nothing run."""
        return any(name in SHOWING for name, _ in self.options)

    @property
    def sweeps(self) -> bool:
        """Whether several jobs are asked for."""
        return ("--multirun", None) in self.options and not self.shows

    def has(self, option: str) -> bool:
        """Whether an option was given."""
        return any(name == option for name, _ in self.options)

    def value(self, option: str) -> str | None:
        """The value of an option; ``None`` if it was not given."""
        return dict(self.options).get(option)

    @property
    def searching(self) -> list[str]:
        """The overrides, with a ``--config-dir`` as the override that means the same."""
        extra = self.value("--config-dir")
        search = [] if extra is None else [override("hydra.searchpath", [f"file://{Path(extra).absolute()}"])]
        return [*self.overrides, *search]

    def for_hydra(self, *more: str) -> list[str]:
        """As Hydra takes them: options first, since its parser stops at an option between overrides."""
        # Hydra shows the configuration of one job.
        options = [each for each in self.options if not (self.shows and each[0] == "--multirun")]
        return [*(word for each in options for word in each if word is not None), *self.overrides, *more]


def read_arguments(words: Sequence[str]) -> Arguments:
    """Options and overrides, told apart.

    Raises:
        UserError: an option is unknown or lacks its value, or ``allow_targets`` holds no names.
    """
    options: list[tuple[str, str | None]] = []
    overrides: list[str] = []
    allowed: tuple[str, ...] = ()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, given, value = word.partition("=")
        if name == KEY:
            (parsed,) = parse([word])
            allowed = read_allowed(parsed.value())
        elif not word.startswith("-") or word == DRY_RUN:
            overrides.append("dry_run=true" if word == DRY_RUN else word)
        elif name in NAMES:
            name = NAMES[name]
            require(name in WITH_VALUE or not given, f"{word}: {name} takes no value")
            if name in WITH_VALUE and not given:
                require(bool(rest), f"{word}: expected a value after it")
                value = rest.pop(0)
            require(
                name not in CHOICES or value in CHOICES[name],
                f"{name}: expected one of {', '.join(CHOICES.get(name, ()))}, got {value!r}",
            )
            options.append((name, value if name in WITH_VALUE else None))
        else:
            require(False, f"unknown option {word}; options are {', '.join([*ALONE, *WITH_VALUE, DRY_RUN])}")
    return Arguments(tuple(options), tuple(overrides), allowed)


def parse(words: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them.

    Raises:
        UserError: one is none; names its key and value, and the form that Hydra takes as it is meant.
    """
    parser, found = OverridesParser.create(), []
    for word in words:
        try:
            found += parser.parse_overrides([word])
        except (HydraException, ValueError) as error:
            key, given, value = word.partition("=")
            require(
                bool(given and key),
                f"{word!r}: expected key=value; a value with spaces stands in quotes, such as \"folder='my photos'\"",
            )
            raise UserError(
                f"{key}: {value!r} is not understood; if it is one text, write {quoted(key, value)}"
            ) from error
    return found


def with_own_priors(words: Sequence[str], conf: Path) -> list[str]:
    """Words of a command line, ``prior=FOLDER`` and ``prior=owner/name`` as the two overrides that mean it.

    A folder that says of itself that it holds a flow is sampled by ``sampler=euler`` where no sampler is given, and so
    is a repository of the hub that lies in its cache.
    """
    found = []
    for word in words:
        key, given, value = word.partition("=")
        value = value.strip("'\"")
        own = key == "prior" and given and not (conf / "prior" / f"{value}.yaml").is_file()
        if own and ("/" in value or Path(value).expanduser().is_dir()):
            found += ["prior=folder", override("prior.path", value)]
        else:
            found.append(word)
    values = {word.partition("=")[0]: word.partition("=")[2].strip("'\"") for word in found}
    flow = "sampler" not in values and _holds_a_flow(values.get("prior.path", ""), values.get("prior.revision"))
    return [*found, "sampler=euler"] if flow else found


def _holds_a_flow(path: str, revision: str | None) -> bool:
    """Whether ``path`` is the folder of a flow, or a repository whose files are there; what is wrong is said later."""
    folder = Path(path).expanduser()
    file: Any = folder / SCHEDULER
    if not folder.is_dir() and path.count("/") == 1:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        with suppress(HFValidationError):
            file = try_to_load_from_cache(path, SCHEDULER, revision=revision)
    try:
        scheduler = json.loads(Path(file).read_text("utf-8"))
    except (OSError, ValueError, TypeError):  # not a path where the cache knows nothing of it
        return False
    return isinstance(scheduler, dict) and scheduler.get("_class_name") == FLOW_SCHEDULER


def check_overrides(arguments: Arguments, conf: Path) -> None:
    """Refuse overrides that Hydra would take for something else, each with the form that is meant.

    Raises:
        UserError: one cannot be read, has several values outside of a sweep, or chooses null in a group.
    """
    for each in parse(arguments.overrides):
        key, value = each.key_or_group, str(each.input_line).partition("=")[2]
        require(
            arguments.sweeps or not each.is_sweep_override(),
            f"{key}: {value!r} stands for several values, which takes --multirun; if it is one text, write "
            f"{quoted(key, value)}",
        )
        members = sorted(file.stem for file in (conf / key).glob("*.yaml")) if (conf / key).is_dir() else []
        require(
            each.is_delete() or not members or each.value() is not None,
            f"{key}: expected one of {', '.join(members)}, got null; choose one of them, or leave {key} out",
        )


def quoted(key: str, value: str) -> str:
    """How a shell is told that the whole of ``value`` is one text."""
    word = f"{key}={spelled_text(value)}"
    return shlex.quote(word) if re.search(r'[\\"`$!]', word) else f'"{word}"'


def first_values(overrides: Sequence[Override]) -> list[str]:
    """The first job of a sweep: every swept key at its first value."""
    found = []
    for each in overrides:
        value = each.value()
        if not each.is_sweep_override():
            found.append(str(each.input_line))
        elif isinstance(value, IntervalSweep):
            found.append(f"{each.get_key_element()}={value.start}")
        elif not isinstance(value, Glob):  # a glob stands for members of a group, of which the default is one
            found.append(f"{each.get_key_element()}={next(each.sweep_string_iterator())}")
    return found


def is_many(override: Override) -> bool:
    """Whether an override makes several jobs."""
    value = override.value()
    if isinstance(value, IntervalSweep | Glob):
        return True
    return override.is_sweep_override() and len(list(islice(override.sweep_string_iterator(), 2))) > 1


def plain_range(override: Override) -> str:
    """A swept ``range()`` as a list of the numbers that were meant: 0.3, where adding 0.1 thrice gives a little more.

    Raises:
        UserError: it holds no number, or too many.
    """
    sweep = override.value()
    if not isinstance(sweep, RangeSweep) or sweep.shuffle:
        return str(override.input_line)
    start, stop, step = (Decimal(str(each)) for each in (sweep.start, sweep.stop, sweep.step))
    whole = all(isinstance(each, int) for each in (sweep.start, sweep.stop, sweep.step))
    count = math.ceil((stop - start) / step) if step else 0
    require(
        0 < count <= LONGEST_RANGE,
        f"{override.input_line}: expected 1 to {LONGEST_RANGE} numbers, got {max(0, count)}; correct the range",
    )
    numbers = [start + index * step for index in range(count)]
    return f"{override.get_key_element()}={','.join(str(int(each) if whole else float(each)) for each in numbers)}"
