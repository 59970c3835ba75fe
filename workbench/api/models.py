"""Base models, what can answer, and servers elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.api.runs import RunMethods
from workbench.errors import NotFound
from workbench.records import Model, ModelSource, Run, Server, Variant
from workbench.settings import typed_path
from workbench.store import models as model_store


class ModelMethods(RunMethods):
    """Base models, what can answer, and servers elsewhere."""

    def models(self, *, archived: bool = False) -> list[Model]:
        """Base models, oldest first; the bundled one is always there."""
        from workbench.models.adding import ensure_bundled

        ensure_bundled(self.store)
        return model_store.list_models(self.store, archived=archived)

    def model(self, name_or_id: str) -> Model:
        """The base model of this name or id; `bundled` means the bundled one."""
        if name_or_id == "bundled":
            from workbench.models.adding import ensure_bundled

            return ensure_bundled(self.store)
        return model_store.get_model(self.store, name_or_id)

    def add_model(self, source: str, reference: str = "", *, name: str | None = None, **options: Any) -> Run:
        """Add a base model as a run: `bundled`, a `hub` id, a `local` folder or a `gguf` file."""
        if source in (ModelSource.LOCAL, ModelSource.GGUF) and reference:
            reference = str(typed_path(reference))  # the run works in another folder than the caller
        config = {"source": source, "reference": reference, "name": name, **options}
        return self.launch("add_model", config, name=f"Add {name or reference or 'the bundled model'}")

    def variants(self, *, archived: bool = False) -> list[Variant]:
        """What can answer, oldest first."""
        return model_store.list_variants(self.store, archived=archived)

    def variant(self, name_or_id: str) -> Variant:
        """The variant of this name or id."""
        return model_store.get_variant(self.store, name_or_id)

    def import_adapter(self, folder: Path | str, model: str, name: str) -> Variant:
        """Take in a PEFT LoRA folder made elsewhere, after checking that it fits the base."""
        from workbench.models.adapters import import_adapter

        return import_adapter(self.store, Path(folder), self.model(model), name)

    def servers(self) -> list[Server]:
        """Remote servers."""
        return model_store.list_servers(self.store)

    def add_server(self, name: str, base_url: str, key: str = "") -> Server:
        """Add an OpenAI-compatible server after probing it; the key goes to a 0600 file."""
        from workbench.generation.servers import add_server

        return add_server(self.store, name, base_url, key)

    def remote_variant(self, server: str, model: str) -> Variant:
        """The variant for one model of a remote server."""
        from workbench.generation.servers import remote_variant

        return remote_variant(self.store, model_store.get_server(self.store, server), model)

    def delete_variant(self, name_or_id: str) -> None:
        """Delete a variant that nothing refers to, with its adapter, for good."""
        from workbench.store.deletion import delete_variant

        delete_variant(self.store, name_or_id)

    def delete_model(self, name_or_id: str) -> None:
        """Delete a base model that nothing was made with, for good; the bundled one can only be put away."""
        from workbench.store.deletion import delete_model

        self.runs(limit=1)  # what vanished is no longer at work
        delete_model(self.store, self.model(name_or_id).id)

    def delete_server(self, name_or_id: str) -> None:
        """Delete a remote server without variants, and forget its key."""
        from workbench.generation.servers import save_server_key
        from workbench.store.deletion import delete_server

        save_server_key(self.settings, delete_server(self.store, name_or_id), "")


def find_variant(workspace: ModelMethods, name_or_id: str) -> Variant:
    """A variant by name or id, where `base` means the bundled model itself."""
    if name_or_id == "base":
        for variant in workspace.variants():
            if variant.adapter_path is None and variant.model_id == workspace.model("bundled").id:
                return variant
        raise NotFound("the bundled model is not ready yet", remedy="`workbench models add bundled` converts it once.")
    return workspace.variant(name_or_id)
