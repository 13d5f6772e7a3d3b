"""Teachers that another Keras wrote: converted once, in a child process, to files of Keras 3."""

from pathlib import Path

from configs.artifacts import whole_file
from configs.contract import TeacherFile
from configs.resume import Built, Step, Workspace, take_step
from distill.backbones.weights.foreign_file import convert, needs_conversion


def readable_file(file: TeacherFile, sha256: str | None, folder: Path) -> TeacherFile:
    """The same teacher as a file that this process can open.

    An .h5 file, or one of Keras 2, becomes a .keras file in `folder`, named by its digest. A run
    that was copied to a machine without the original uses that.

    Args:
        sha256: of the file; None if it is missing.

    Raises:
        UserError: the file holds no model that can be converted.
    """
    if sha256 is None:
        return file
    target = folder / f"{file.path.stem}-{sha256[:8]}.keras"
    manifest = target.with_name(f"{target.name}.json")
    if not manifest.exists() and not needs_conversion(file.path):
        return file

    def build(workspace: Workspace) -> Built:
        with whole_file(target) as unfinished:
            convert(file.path, unfinished, of="teacher")
        return [target], {}

    # Processes that label parts of the photos may start together.
    name = f"{file.path.name} for Keras 3"
    take_step(Step(name, manifest, {"file": sha256}, build), wait=True)
    return file.model_copy(update={"path": target})
