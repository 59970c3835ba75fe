"""The variants of one base as its engine answers for them: prompt, adapter and fingerprint, checked at each request.

An adapter is loaded when it is first asked for. Its files are looked at before each request: where they changed, the
adapter is loaded anew and answers carry the new fingerprint. An adapter's own chat template is used where it has one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.datasets.render import Renderer, load_renderer
from workbench.datasets.template import load_template
from workbench.errors import ModelProblem, NotFound
from workbench.models.fingerprints import digest_adapter, digest_tokenizer, digest_weights, fingerprint
from workbench.records import Model, Variant
from workbench.store import models as model_store
from workbench.store.database import Store

if TYPE_CHECKING:
    from workbench.generation.engine import Engine

WATCHED = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "tokenizer_config.json",
    "tokenizer.json",
)
Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Ready:
    """A variant that can answer now."""

    name: str
    """Id it goes by in answers."""
    adapter: str | None
    """The engine's key of its adapter."""
    renderer: Renderer
    """Its prompt."""
    fingerprint: str
    """What really produces its answers."""


class Variants:
    """Finds and readies the variants of one base.

    Args:
        store: the store.
        model: the base.
        engine: what loads adapters.
        dtype: number format of the base in the engine.
        load_copy: loads another copy of the base with an adapter folder laid over by PEFT.
    """

    def __init__(
        self, store: Store, model: Model, engine: Engine, dtype: str, load_copy: Callable[[Path], Any]
    ) -> None:
        self.store = store
        self.model = model
        self.engine = engine
        self._folder = Path(model.path or "")
        self._dtype = dtype
        self._load_copy = load_copy
        self._renderer = load_renderer(self._folder)
        self._base_digest = digest_weights(self._folder)
        self._tokenizer_digest = digest_tokenizer(self._folder)
        self._lock = threading.Lock()
        self._ready: dict[str, tuple[Stamp, Ready]] = {}

    @property
    def base(self) -> Ready:
        """The base itself."""
        return Ready(self.model.id, None, self._renderer, self._print(None, self._renderer))

    def names(self) -> list[Variant]:
        """All variants of this base."""
        return model_store.list_variants(self.store, model_id=self.model.id)

    def ready(self, name: str) -> Ready:
        """The variant of this id or name, its adapter loaded.

        Raises:
            NotFound: there is none on this base.
            ModelProblem: its adapter is damaged, gone or does not fit.
        """
        if name in (self.model.id, self.model.name):
            return self.base
        variant = model_store.get_variant(self.store, name)
        if variant.model_id != self.model.id:
            raise NotFound(
                "this variant has another base", value=name, remedy=f"This engine serves {self.model.name} only."
            )
        if variant.adapter_path is None:
            return replace(self.base, name=variant.id)
        with self._lock:
            return self._with_adapter(variant, Path(variant.adapter_path))

    def _with_adapter(self, variant: Variant, folder: Path) -> Ready:
        if not folder.is_dir():
            raise ModelProblem(
                "the adapter's folder is gone", value=str(folder), remedy="Put it back, or clone the run that made it."
            )
        stamp = _stamp(folder)
        known = self._ready.get(variant.id)
        if known is not None and known[0] == stamp:
            # Loading a known key is free, and brings it back where it was on its way out.
            self.engine.load_adapter(known[1].adapter or "", folder, lambda: self._load_copy(folder))
            return known[1]
        digest = digest_adapter(folder)
        key = f"{variant.id}:{digest}"
        renderer = self._renderer_of(folder)
        self.engine.load_adapter(key, folder, lambda: self._load_copy(folder))
        if _stamp(folder) != stamp:
            self.engine.unload_adapter(key)
            raise ModelProblem(
                "the adapter's files changed while they were read", place=variant.name, remedy="Ask again."
            )
        ready = Ready(variant.id, key, renderer, self._print(digest, renderer))
        if known is not None and known[1].adapter is not None and known[1].adapter != key:
            self.engine.unload_adapter(known[1].adapter)
        self._ready[variant.id] = (stamp, ready)
        return ready

    def _renderer_of(self, folder: Path) -> Renderer:
        """The base's renderer, with the adapter's own chat template where it has one."""
        if (folder / "tokenizer.json").is_file() and digest_tokenizer(folder) != self._tokenizer_digest:
            from tokenizers import Tokenizer

            own = Tokenizer.from_file(str(folder / "tokenizer.json"))
            if own.get_vocab(True) != self._renderer.tokenizer.get_vocab(True):
                raise ModelProblem(
                    "the adapter comes with a tokenizer of other ids than its base's",
                    place=str(folder),
                    remedy="Train it again with the base's own tokenizer.",
                )
        template = load_template(folder)
        if template.is_plain:
            return self._renderer
        special = {**self._renderer.template.special_tokens, **template.special_tokens}
        return Renderer(
            self._renderer.tokenizer, replace(template, special_tokens=special), sorted(self._renderer.stop_ids)
        )

    def _print(self, adapter_digest: str | None, renderer: Renderer) -> str:
        return fingerprint(
            self._base_digest, adapter_digest, self._tokenizer_digest, renderer.template.source, self._dtype
        )


def _stamp(folder: Path) -> Stamp:
    """Size and time of change of every file that bears on an answer."""
    found = []
    for name in WATCHED:
        try:
            stat = (folder / name).stat()
        except OSError:
            continue
        found.append((name, stat.st_size, stat.st_mtime_ns))
    return tuple(found)
