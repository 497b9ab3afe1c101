"""Times the embedded engine on this machine, keeps what it finds, and predicts with it.

A calibration writes models of random weights that differ in one thing each: the type of the
weights, how many layers, experts, how long a context attention looks at. All of them are timed in
turn, twice or more, so that a moment in which the machine is busy does not fall on one alone.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from snugfit.archs.table import spec_of
from snugfit.core import Answer, Configuration, Device, Machine, ModelSpec, Speed
from snugfit.errors import RuntimeFailure, UsageError
from snugfit.hardware import calibration, detect
from snugfit.hardware.calibration import Calibration
from snugfit.planning.calibrated import Sample, fit, paces_of_machine
from snugfit.planning.memory import every_layer, footprint_of
from snugfit.planning.speed import reads_of, speed_of
from snugfit.quants.types import TYPES
from snugfit.runtimes.synthetic import Shape, metadata_of, tensors_of, write_model
from snugfit.runtimes.timing import TimedEngine
from snugfit.units import GIB, MIB

Progress = Callable[[str, int, int], None]  # stage, done, total

# Types that differ in how they are computed; `planning.calibrated.LIKE` has those in between.
TYPES_TIMED = (
    *("Q4_K", "Q8_0", "Q6_K", "F16", "Q4_0", "Q3_K", "Q2_K"),
    *("IQ4_XS", "IQ3_S"),
)
TYPES_OF_OTHERS = ("Q4_K", "F16")  # of the models that tell the rest
UNTIMED = ("F32", "F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K")  # no matrices of models
# A model is beyond what a processor caches; a GPU reads it for much longer than it needs to start.
SECONDS_OF_READING = 1e-3
LEAST_BYTES, MOST_BYTES = 96 * MIB, 512 * MIB
DECODED, LONG_FILL, SHORT_FILL = 3, 1536, 16
PROMPT_TOKENS = {"ram": 64, "gpu": 512}
REPEATS, LEAST_PASSES, MOST_PASSES = 10, 1, 6
SECONDS = 30.0
LEAST_TOKENS = 32  # of a run that corrects
OF_MEMORY = 8  # a model takes at most one part in so many of what is free


@dataclass(frozen=True)
class Trial:
    """One model to time, and the fill of its cache."""

    name: str
    shape: Shape
    filled: int = SHORT_FILL


@dataclass(frozen=True)
class Measured:
    """How fast a model ran beside how fast it was predicted, seconds a token and a prompt."""

    configuration: Configuration
    predicted: Speed
    token_seconds: tuple[float, ...]
    prompt_tokens: int
    prompt_seconds: tuple[float, ...]
    row: Calibration | None  # as it is now, None where there is none to correct


def shape_of_type(type_name: str, size_bytes: float) -> Shape:
    """Return wide layers of one type, as many as make about `size_bytes`."""
    one = Shape(type_name, 1, 2048, 5632, heads=16, kv_heads=4, head_size=128)
    of_layer = sum(t.size_bytes for t in tensors_of(one) if t.name.startswith("blk."))
    return replace(one, layers=max(1, round(size_bytes / of_layer)))


def trials_of(types: Sequence[str], size_bytes: float) -> list[Trial]:
    """Return what tells every unknown of a pace apart."""
    trials = [Trial(type_name, shape_of_type(type_name, size_bytes)) for type_name in types]
    thin = Shape("Q4_K", 8, 256, 256, heads=4, vocabulary=8192)
    # Many layers, so that keys and values are more than a processor's cache holds, as those of any
    # real model are by the time its weights have passed.
    looks = Shape("Q4_K", 10, 256, 256, heads=16, kv_heads=8, head_size=64, vocabulary=8192)
    wide = replace(looks, heads=8, kv_heads=4, head_size=128)
    experts = Shape("Q4_K", 8, 1024, 768, heads=16, kv_heads=4, experts=16, experts_used=4)
    few = Shape("Q4_K", 24, 256, 256, heads=4, experts=16, experts_used=4)
    return [
        *trials,
        Trial("few layers", thin),
        Trial("many layers", replace(thin, layers=48)),
        Trial("attention", looks, LONG_FILL),
        Trial("attention, more heads", replace(looks, heads=32), LONG_FILL),
        Trial("attention, wide heads", wide, LONG_FILL),
        Trial("attention, more wide heads", replace(wide, heads=16), LONG_FILL),
        Trial("experts", experts),
        Trial("small experts", few),
    ]


def calibrate(
    machine: Machine,
    *,
    types: Sequence[str] = (),
    threads: int = 0,
    seconds: float = SECONDS,
    keep: bool = True,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Calibration]:
    """Time the engine on RAM and on the GPUs that it can use; keep and return device -> row.

    Each takes about `seconds`. Several GPUs of one name count as one. Raises RuntimeFailure where
    the engine fails, UsageError for a type that no matrix has, OutputError.
    """
    for name in types:
        if name not in TYPES or name in UNTIMED:
            raise UsageError(f"'{name}' is not a type of matrices. See docs/quant-types.md.")
    if not machine.ram.read_bytes_per_s:
        progress("memory", 0, 1)
        ram = replace(machine.ram, read_bytes_per_s=rate_of_ram(machine))
        machine = replace(machine, devices=(*machine.devices[:-1], ram))
    found: dict[str, Calibration] = {}
    names = {gpu.name.split(" #")[0]: gpu for gpu in machine.gpus}
    for device in (machine.ram, *names.values()):
        row = _calibrated(machine, device, types, threads, seconds, progress)
        if row is not None:
            if keep:
                key = calibration.key_of(device, machine.processor, machine.cores, threads)
                calibration.add(key, row)
            found[device.name] = row
    return found


def rate_of_ram(machine: Machine) -> int | None:
    """Return how fast RAM is read, timed now where it is not known."""
    known = machine.ram.read_bytes_per_s
    return known or detect.measure().get(detect.ram_key(machine.processor, machine.cores))


def _calibrated(
    machine: Machine,
    device: Device,
    types: Sequence[str],
    threads: int,
    seconds: float,
    progress: Progress,
) -> Calibration | None:
    """Return what one memory's processors reach, or None where the engine cannot use them."""
    size = trial_bytes(device)
    chosen = types or TYPES_TIMED
    chosen = tuple(dict.fromkeys((*TYPES_OF_OTHERS, *chosen)))
    trials = trials_of(chosen, size)
    with tempfile.TemporaryDirectory(prefix="snugfit-") as folder:
        samples = timed(trials, Path(folder), device, threads or machine.cores, seconds, progress)
    if samples is None:
        return None
    rate = float(device.read_bytes_per_s or 0)
    return fit(samples, date=time.strftime("%Y-%m-%d %H:%M"), read_bytes_per_s=rate)


def trial_bytes(device: Device) -> int:
    """Return how large a model is to be timed on a device."""
    size = round(SECONDS_OF_READING * (device.read_bytes_per_s or 0))
    if device.kind == "ram":
        size = 3 * last_cache_bytes()
    return min(max(LEAST_BYTES, size), MOST_BYTES, device.free_bytes // OF_MEMORY)


def last_cache_bytes() -> int:
    """Return the bytes of the processor's last cache, as Linux tells them; 0 if nobody does."""
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(file.read_text().strip().removesuffix("K")) * 1024)
    return min(max(sizes), GIB // 4)


@dataclass
class Timings:
    """What was timed of one trial, over all passes; seconds."""

    trial: Trial
    tokens: list[float] = field(default_factory=list)
    prompts: list[float] = field(default_factory=list)
    prompt_tokens: int = 0

    @property
    def is_long(self) -> bool:
        return self.trial.filled > SHORT_FILL

    def add(self, engine: TimedEngine, prompt_tokens: int) -> None:
        """Time a prompt, then tokens after a text that has filled the cache."""
        vocabulary = self.trial.shape.vocabulary - 1
        text = engine.prompt(self.trial.filled, vocabulary)
        took = engine.time(text, 2)  # touches every page, too
        if not self.is_long:
            took = engine.time(engine.prompt(prompt_tokens, vocabulary), 2, anew=True)
        self.prompt_tokens = took.prompt_tokens
        self.prompts.append(took.prompt_seconds)
        for _ in range(REPEATS):
            self.tokens.append(engine.time(text, DECODED + 1).token_seconds)

    def sample(self) -> Sample:
        spec = spec_of_shape(self.trial.shape, self.trial.name)
        return Sample(
            spec, self.trial.filled, tuple(self.tokens), self.prompt_tokens, (min(self.prompts),)
        )


def spec_of_shape(shape: Shape, name: str) -> ModelSpec:
    tensors = tensors_of(shape)
    size = sum(tensor.size_bytes for tensor in tensors)
    return spec_of(name, metadata_of(shape, name), tensors, file_bytes=size, header_bytes=0)


def timed(
    trials: Sequence[Trial],
    folder: Path,
    device: Device,
    threads: int,
    seconds: float,
    progress: Progress,
) -> list[Sample] | None:
    """Time all trials in turn, again and again while `seconds` last.

    None where the engine leaves a GPU alone that was asked for. Raises RuntimeFailure.
    """
    began = time.monotonic()
    timings = [Timings(trial) for trial in trials]
    for number in range(MOST_PASSES):
        elapsed = time.monotonic() - began
        if number >= LEAST_PASSES and elapsed * (number + 1) / number > seconds:
            break
        for done, one in enumerate(timings):
            progress("timing", number * len(trials) + done, LEAST_PASSES * len(trials))
            if number and one.is_long:
                continue  # its prompt takes longer than all the rest
            if not time_once(one, folder / "model.gguf", device, threads):
                return None
    return [one.sample() for one in timings]


def time_once(timings: Timings, path: Path, device: Device, threads: int) -> bool:
    """Write, load and time one trial; whether the engine used the device.

    It is timed at once: some systems take the pages of an idle process away.
    """
    trial, prompt_tokens = timings.trial, PROMPT_TOKENS[device.kind]
    write_model(path, trial.shape)
    layers = trial.shape.layers + 1 if device.kind == "gpu" else 0
    ctx = max(trial.filled, prompt_tokens) + 2 * DECODED
    with TimedEngine(threads) as engine:
        engine.start(path, Configuration(ctx=256 * math.ceil(ctx / 256), gpu_layers=layers))
        path.unlink()  # it is mapped; its room is free when the engine ends
        if layers and not engine.uses_gpu():
            return False
        timings.add(engine, prompt_tokens)
    return True


def predict(
    spec: ModelSpec,
    configuration: Configuration,
    machine: Machine,
    filled: int,
    threads: int = 0,
    rows: Mapping[str, Calibration] | None = None,
) -> Speed:
    """Return the speed of a model as it is, with the calibrations that are kept, or `rows`."""
    types = {tensor.name: tensor.type_name for tensor in spec.tensors}
    sizes = {tensor.name: tensor.size_bytes for tensor in spec.tensors}
    return speed_of(
        footprint_of(spec),
        reads_of(spec, types, sizes),
        configuration,
        machine.devices,
        paces_of_machine(machine, rows, threads),
        filled,
    )


def learn(
    spec: ModelSpec,
    configuration: Configuration,
    machine: Machine,
    filled: int,
    token_seconds: float,
    threads: int = 0,
) -> Calibration | None:
    """Correct the calibration by a real run; return its row as it is now.

    None where the machine was not calibrated, or the run used more than one memory: nobody could
    tell which of them was off. Raises OutputError.
    """
    layers = configuration.gpu_layers
    if layers and (layers <= spec.layers or configuration.cpu_expert_layers):
        return None
    if layers and len({gpu.name.split(" #")[0] for gpu in machine.gpus}) != 1:
        return None
    device = machine.gpus[0] if layers else machine.ram
    key = calibration.key_of(device, machine.processor, machine.cores, threads)
    row = calibration.read().get(key)
    if row is None:
        return None
    predicted = predict(spec, configuration, machine, filled, threads)
    ratio = token_seconds * predicted.decode_tokens_per_s.middle * row.correction
    return calibration.add_run(key, ratio)


def measure(
    path: Path,
    spec: ModelSpec,
    configuration: Configuration,
    machine: Machine,
    *,
    prompt_tokens: int,
    tokens: int,
    depth: int = 0,
    repeats: int = 3,
    threads: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> Measured:
    """Time prompts of `prompt_tokens`, and `tokens` decoded after `depth`, as llama-bench does.

    Predicts first, then corrects the calibration by the median. Raises RuntimeFailure.
    """
    filled = depth + tokens // 2
    predicted = predict(spec, configuration, machine, filled, threads)
    decoded, prompts = [], []
    with TimedEngine(threads or None) as engine:
        engine.start(path, configuration)
        if prompt_tokens:
            engine.time(engine.prompt(min(prompt_tokens, 16), spec.vocabulary), 2)
        for number in range(repeats):
            progress("timing", number, repeats)
            if prompt_tokens:
                prompt = engine.prompt(prompt_tokens, spec.vocabulary)
                prompts.append(engine.time(prompt, 2, anew=True).prompt_seconds)
        if tokens:
            text = engine.prompt(max(depth, 1), spec.vocabulary)
            engine.time(text, 2)
            for number in range(repeats):
                progress("timing", number, repeats)
                decoded.append(engine.time(text, tokens + 1).token_seconds)
    row = None
    if tokens >= LEAST_TOKENS:
        median = sorted(decoded)[len(decoded) // 2]
        row = learn(spec, configuration, machine, filled, median, threads)
    return Measured(configuration, predicted, tuple(decoded), prompt_tokens, tuple(prompts), row)


@dataclass(frozen=True)
class Ran:
    """How fast a real run came, where it was long enough to tell, beside what was predicted."""

    predicted: Speed
    tokens_per_s: float | None
    row: Calibration | None  # as it is now, None where there is none or the run did not count


def after_run(
    answer: Answer, spec: ModelSpec, configuration: Configuration, machine: Machine
) -> Ran:
    """Predict a run that has ended and correct the calibration by it. Raises OutputError.

    The first token comes out of the prompt's pass, so that one fewer was timed.
    """
    filled = answer.prompt_tokens + answer.generated_tokens // 2
    predicted = predict(spec, configuration, machine, filled)
    if answer.generated_tokens < LEAST_TOKENS or answer.generated_seconds <= 0:
        return Ran(predicted, None, None)
    seconds = answer.generated_seconds / (answer.generated_tokens - 1)
    row = learn(spec, configuration, machine, filled, seconds)
    return Ran(predicted, 1 / seconds, row)


def configuration_for(spec: ModelSpec, machine: Machine, ctx: int) -> Configuration:
    """Return a plain configuration: all on the GPUs, if there are any. Raises RuntimeFailure."""
    if ctx > max(spec.context_length, 1):
        raise RuntimeFailure(
            f"{spec.name}: was trained for {spec.context_length} tokens, {ctx} are asked. Lower -p."
        )
    return Configuration(ctx=ctx, gpu_layers=every_layer(spec, machine))
