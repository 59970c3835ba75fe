"""What goes out: demos, reports, exports; and what came from what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.api.data import DataMethods
from workbench.errors import NotFound
from workbench.notebook.shown import ShownRun
from workbench.records import Run, Variant, new_id
from workbench.settings import typed_path
from workbench.store import runs as run_store

if TYPE_CHECKING:
    from workbench.runs.manifests import Manifest
    from workbench.runs.reproduce import Finding
    from workbench.store.lineage import Lineage


class ShareMethods(DataMethods):
    """What goes out: demos, reports, exports; and what came from what."""

    def start_demo(
        self, variants: Sequence[str], *, password: str = "", name: str | None = None, **options: Any
    ) -> Run:
        """Start a page for visitors, as a run; its result tells the address. See `DemoConfig` for the options.

        Args:
            variants: two to four, by name or id.
            password: what visitors have to know. Beyond this machine one is made where none is given.
            name: shown name of the run; made from the title when None.
            options: other fields of `DemoConfig`.
        """
        from workbench.demo.configs import check_password, write_password
        from workbench.runs.kinds import parse_config
        from workbench.runs.launch import launch_run

        given = {"variants": [self.variant(each).id for each in variants], **options}
        config = parse_config("demo", given)
        run_id = new_id("run")
        if password:
            write_password(self.settings, run_id, check_password(password))
        title = config.model_dump()["title"]
        run = launch_run(self.store, "demo", config, name=name or f"Demo: {title}", run_id=run_id)
        return ShownRun.of(run, self.store)

    def demos(self, *, ended: bool = False) -> list[Run]:
        """Demos at work, newest first; with `ended` those of before, too."""
        return [run for run in self.runs(kinds=["demo"]) if ended or run.state.active]

    def demo_password(self, run_id: str) -> str | None:
        """What visitors of a demo have to know; None where nothing, or where it is not made yet."""
        from workbench.demo.configs import read_password

        return read_password(self.settings, run_store.get_run(self.store, run_id).id)

    def report(self, run_id: str, path: Path | str) -> Path:
        """Write a prompt set's answers as one HTML file that needs nothing else."""
        from workbench.evaluation.report import write_report

        return write_report(self.store, run_store.get_run(self.store, run_id), Path(path))

    def export(self, variant: str, form: str = "adapter_zip", *, name: str | None = None, **options: Any) -> Run:
        """Put a variant into a form others can use, in the background, and check that it answers as before.

        Args:
            variant: name or id.
            form: adapter_zip, merged, ollama or hub.
            name: shown name of the run.
            options: other fields of `ExportConfig`.

        Raises:
            UsageError: variant, form and place do not go together.
            Conflict: something is at the place already.
        """
        from workbench.evaluation.export_run import FORMS

        chosen = self.variant(variant)
        if options.get("folder"):
            options["folder"] = str(typed_path(options["folder"]))  # the run works in another folder
        config = {"variant": chosen.id, "form": form, **options}
        return self.launch("export", config, name=name or f"{FORMS.get(form, form)}: {chosen.name}"[:200])

    def lineage(self, reference: str) -> Lineage:
        """What a variant, run, dataset version, model or queue was made from, and what was made from it."""
        from workbench.store.lineage import trace

        return trace(self.store, reference)

    def manifest(self, reference: str) -> Manifest:
        """Everything an adapter or a reward model was made from, as needed to make it again.

        Args:
            reference: a variant's id or name; or a reward model's name, or the id of the run that made it.
        """
        from workbench.runs.manifests import make_manifest
        from workbench.training.reward_models import RewardModel, get_reward_model

        made: Variant | RewardModel
        try:
            made = self.variant(reference)
        except NotFound as no_variant:
            try:
                made = get_reward_model(self.store, reference)
            except NotFound:
                raise no_variant from None
        return make_manifest(self.store, made)

    def check_manifest(self, manifest: Manifest | Path | str) -> list[Finding]:
        """What a manifest needs and is missing here, and what differs from when the adapter was made."""
        from workbench.runs.reproduce import check_manifest

        return check_manifest(self.store, _as_manifest(manifest))

    def reproduce(self, manifest: Manifest | Path | str) -> Run:
        """Launch the run that makes a manifest's adapter or reward model again.

        Raises:
            NotFound: base, data, the adapter it went on from or the reward model is not here.
            ModelProblem: one of them is here with other files.
        """
        from workbench.runs.reproduce import reproduce

        return ShownRun.of(reproduce(self.store, _as_manifest(manifest)), self.store)


def _as_manifest(manifest: Manifest | Path | str) -> Manifest:
    from workbench.runs.manifests import Manifest, read_manifest

    return manifest if isinstance(manifest, Manifest) else read_manifest(Path(manifest))
