"""The adapters of an engine over vLLM, that of all rows and those that rows name, checked before vLLM has them."""

from pathlib import Path
from typing import Any

from endmark.jobs.errors import ModelError
from endmark.jobs.finetuning.adapters import check_adapter, read_config
from endmark.jobs.finetuning.lora import read_pairs
from endmark.jobs.hub import local_folder

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM makes room
_ROWS_RANK = 64  # the highest rank of an adapter that a row names, where the one of all rows has no higher one


class Adapters:
    """What vLLM is told of adapters. It loads one at the first row that names it, and dies of one that it cannot.

    Args:
        model: what the model is called.
        path: its folder or hub id.
        own: folder of the adapter of all rows that name none.
        most: that rows may name at once.

    Raises:
        SpecError: the adapter of all rows was trained on another model.
        ModelError: it is of a kind that cannot run.
    """

    def __init__(self, model: str = "", path: str = "", *, own: str | None = None, most: int = 0) -> None:
        self.most = most
        self._model, self._folder = model, local_folder(path) if path else None
        self._own = own
        self._numbers: dict[str, int] = {}  # what vLLM calls them
        self._rank = max(_ROWS_RANK if most else 0, self._looked_into(own) if own is not None else 0)
        if own is not None:
            self._numbers[own] = 1

    def options(self) -> dict[str, Any]:
        """Return vLLM's options; none where no row has an adapter."""
        if not self._rank:
            return {}
        rank = next((rank for rank in _RANKS if rank >= self._rank), self._rank)
        return {"enable_lora": True, "max_loras": self.most + (self._own is not None), "max_lora_rank": rank}

    def check(self, folder: str | None) -> None:
        """Refuse an adapter that vLLM would not load; the files of one that is taken are looked into once.

        Raises:
            SpecError: it was trained on another model, or the folder holds no adapter.
            ModelError: it is of a kind that cannot run, or there is no room for its rank.
        """
        if folder is None or folder in self._numbers:
            return
        if not self.most:
            raise ModelError(
                f"the row names the adapter `{folder}`, and there is room for none",
                hint="`--max-adapters N` makes it",
            )
        rank = self._looked_into(folder)
        if rank > self._rank:
            raise ModelError(
                f"the adapter `{folder}` has the rank {rank}, and rows may name those of up to {self._rank}",
                hint="give it to the worker as `--adapter`",
            )
        self._numbers[folder] = len(self._numbers) + 1

    def request(self, folder: str | None) -> Any:  # noqa: ANN401
        """Return vLLM's name for an adapter that was checked; for None that of all rows, if they have one."""
        chosen = folder or self._own
        if chosen is None:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest(f"adapter-{self._numbers[chosen]}", self._numbers[chosen], chosen)

    def _looked_into(self, folder: str) -> int:
        """Return the rank of an adapter's matrices.

        Raises:
            SpecError: it was trained on another model, or the folder holds no adapter.
            ModelError: it is of a kind that cannot run.
        """
        check_adapter(Path(folder), self._model, self._folder)
        config = read_config(Path(folder))
        read_pairs(Path(folder), config)
        uneven = [name for name in ("rank_pattern", "alpha_pattern") if config.get(name)]
        if uneven:
            raise ModelError(
                f"the adapter `{folder}` has other ranks in other layers (`{uneven[0]}`): vLLM would err",
                hint="Endmark's own engine runs it, as `--adapter`",
            )
        return int(config["r"])
