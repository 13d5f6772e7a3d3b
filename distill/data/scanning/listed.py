"""The files of a run's source, as its config names them, and the state that tells changed ones."""

import os
from dataclasses import replace

from configs.run_dir import RunDir
from configs.schema.data import DataConfig
from distill.data.manifest import UNLABELLED
from distill.data.scanning.known import SourceState, state_of_files
from distill.data.sources import list_photos
from distill.data.sources.folder import unlabelled_files
from distill.data.sources.listing import ListedFile, Listing
from distill.data.sources.stored.copies import copied
from distill.data.splitting.groups import with_groups


def list_source(data: DataConfig, run: RunDir) -> tuple[Listing, SourceState]:
    """The files of the source, and their state."""
    listing = list_photos(data, run.photos_manifest.parent)
    if not data.use_splits:
        files = [f if f.split == UNLABELLED else replace(f, split=None) for f in listing.files]
        listing = replace(listing, files=files)
    if data.unlabelled is not None:
        folder, run_data = data.unlabelled, run.photos_manifest.parent
        if isinstance(folder, str):
            folder, _ = copied(run_data, folder, name="unlabelled")
        paths = unlabelled_files(folder)
        root = listing.root.resolve()
        if all(place.is_relative_to(run_data.resolve()) for place in (folder.resolve(), root)):
            # So a run can be moved together with all photos that were copied into it.
            paths = [os.path.relpath(path, root) for path in paths]
        unlabelled = [ListedFile(path, "", UNLABELLED) for path in paths]
        listing = replace(listing, files=[*listing.files, *unlabelled])
    listing = with_groups(listing, data.group)
    return listing, state_of_files(listing, run.photos_manifest.parent)
