"""Which engine a worker is to run: Endmark's own, or vLLM's, which may spread one model over several GPUs."""

from dataclasses import dataclass
from importlib.util import find_spec

from endmark.jobs.errors import MissingDependency, UsageError
from endmark.jobs.spelling import nearest

OWN, VLLM, AUTO = "endmark", "vllm", "auto"
ENGINES = (AUTO, OWN, VLLM)
GPU_WEIGHTS, CPU_WEIGHTS = ("fp8", "fp8-original"), ("bf16",)  # those that only the one multiplies, or gains by
OWN_WEIGHTS = ("auto", "packed", "expanded", *GPU_WEIGHTS, *CPU_WEIGHTS)
LOCAL, RAY = "local", "ray"
EXECUTORS = (LOCAL, RAY)  # whose GPUs hold one model: those of this host, or those of a Ray cluster's hosts
SEVERAL_CARDS = "spread it over two: `--tensor-parallel 2`, with the extra `vllm`"  # as the end of a hint
VLLM_WEIGHTS = ("auto", "nf4", "checkpoint", "16bit")  # in flight, as the files have them, not quantised


def has_vllm() -> bool:
    """Whether vLLM is installed here; it is not imported."""
    return find_spec("vllm") is not None


def check_device(weights: str, kv_cache: str = AUTO, *, on_gpu: bool) -> None:
    """Refuse weights and a cache that Endmark's own engine has not on such a device.

    Args:
        weights: the value of `--weights`.
        kv_cache: that of `--kv-cache`.
        on_gpu: whether the model is to run on a GPU, and not on the CPU.

    Raises:
        UsageError: saying so.
    """
    if weights in GPU_WEIGHTS and not on_gpu:
        raise UsageError(
            "weights in fp8 need a GPU that multiplies in that type, and the model is to run on the CPU",
            hint="leave `--weights` out",
        )
    if weights in CPU_WEIGHTS and on_gpu:
        raise UsageError(
            f"`--weights {weights}` is for a CPU: a GPU multiplies in 16 bits by itself",
            hint="leave `--weights` out",
        )
    if kv_cache != AUTO and not on_gpu:
        raise UsageError(
            f"a KV cache in {kv_cache} needs a GPU that has the type, and the model is to run on the CPU",
            hint="leave `--kv-cache` out",
        )


def computed_with(engine: str, weights: str) -> str:
    """Return what an answer is said to be computed with: the weights, and the engine where it is not our own."""
    return weights if engine == OWN else f"{engine}: {weights}"


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What was asked for: `auto` takes Endmark's own engine, and vLLM's for what that refuses or cannot spread."""

    wanted: str = AUTO  # one of ENGINES
    tensor_parallel: int = 1  # GPUs that share each layer
    pipeline_parallel: int = 1  # GPUs, or groups of them, that take the layers one after the other
    max_adapters: int = 0  # adapters that rows may name in one batch, beside the one of all rows
    executor: str = LOCAL  # one of EXECUTORS

    @property
    def gpus(self) -> int:
        """GPUs that hold one copy of the model."""
        return self.tensor_parallel * self.pipeline_parallel

    def name(self, weights: str = AUTO) -> str:
        """Return the engine that the other options leave; `auto` where both can serve."""
        if self.wanted != AUTO:
            return self.wanted
        if self.gpus > 1 or self.executor != LOCAL or self.max_adapters or weights not in OWN_WEIGHTS:
            return VLLM
        return AUTO if weights in VLLM_WEIGHTS else OWN

    def words(self) -> list[str]:
        """Return the options that ask for it, as they are typed; none where nothing was asked for."""
        words = [] if self.wanted == ANY_ENGINE.wanted else ["--engine", self.wanted]
        for option in ("tensor_parallel", "pipeline_parallel", "max_adapters", "executor"):
            value = getattr(self, option)
            words += [] if value == getattr(ANY_ENGINE, option) else [f"--{option.replace('_', '-')}", str(value)]
        return words

    def check(self, weights: str = AUTO, *, here: bool = True) -> None:
        """Refuse what no engine does, and one that is not installed here.

        Args:
            weights: the value of `--weights`.
            here: whether this host is to run it, so that it must be installed here.

        Raises:
            UsageError: options that do not go together.
            MissingDependency: vLLM is wanted and not installed.
        """
        if self.wanted not in ENGINES:
            raise UsageError(
                f"there is no engine `{self.wanted}`", hint=nearest(self.wanted, ENGINES, ", ".join(ENGINES))
            )
        name, asked = self.name(weights), " ".join(self._asked(weights))
        if here and name == VLLM and not has_vllm():
            raise MissingDependency(f"`{asked}`", VLLM)
        if self.executor != LOCAL:
            self._check_hosts(here=here)
        if name == OWN and self.gpus > 1:
            raise UsageError(
                f"`{asked}`: Endmark's own engine holds a model on one GPU",
                hint="`--engine vllm` spreads one over several",
            )
        if name == OWN and self.max_adapters:
            raise UsageError(
                f"`{asked}`: Endmark's own engine takes one adapter, for all rows: `--adapter FOLDER`",
                hint="`--engine vllm` takes several at once, which rows name in their column `adapter`",
            )
        known = {OWN: OWN_WEIGHTS, VLLM: VLLM_WEIGHTS}.get(name, (weights,))
        if weights not in known:
            raise UsageError(
                f"the engine `{name}` has no `--weights {weights}`",
                hint=f"with it they are {', '.join(f'`{item}`' for item in known)}",
            )

    def _check_hosts(self, *, here: bool) -> None:
        """Refuse several hosts for a model without several GPUs, and without Ray.

        Raises:
            UsageError: saying so.
        """
        if self.wanted == OWN or self.gpus == 1:
            raise UsageError(
                f"`--executor {self.executor}` spreads one model over several GPUs, under vLLM",
                hint="say over how many: `--tensor-parallel N`, `--pipeline-parallel N`",
            )
        if here and find_spec("ray") is None:
            raise UsageError(
                "`--executor ray` needs Ray", hint="pip install 'ray[cgraph]>=2.48,<3', on every host"
            )

    def _asked(self, weights: str) -> list[str]:
        """Return the options for which it is to be vLLM's engine, or may not be Endmark's own."""
        words = self.words()[2:] if self.wanted == OWN else self.words()
        return words or ["--weights", weights]


ANY_ENGINE = EngineChoice()  # where nobody has asked for one
