"""Distributions as pip leaves them behind, for tests that look for plugins."""

__all__ = ("Installer",)

from dataclasses import dataclass, field
from importlib import invalidate_caches
from pathlib import Path
from textwrap import dedent


@dataclass(frozen=True)
class Installer:
    """Puts distributions into a folder, and remembers the modules it wrote."""

    folder: Path
    modules: set[str] = field(default_factory=set)

    def install(
        self,
        distribution: str,
        group: str,
        entry_point: str,
        code: str = "",
        *,
        requires: str | None = "eventbus>=0.1",
    ) -> None:
        """Install a distribution of one entry point, say `shout = shouting:Shout`.

        The code goes into the module that the entry point names.
        """
        info = self.folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        requirement = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(metadata + requirement, "utf-8")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry_point}\n", "utf-8")
        module = entry_point.partition("=")[2].partition(":")[0].strip()
        (self.folder / f"{module}.py").write_text(dedent(code), "utf-8")
        self.modules.add(module)
        invalidate_caches()
