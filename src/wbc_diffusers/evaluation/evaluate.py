"""`wbc evaluate`: is a set of generated images as good as real cells, where does it differ, and did it copy?"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from wbc_diffusers.data.manifest import public_name
from wbc_diffusers.data.output import check_output, whole_folder
from wbc_diffusers.data.sources import shown
from wbc_diffusers.evaluation.by_encoder import Comparison, compare_by
from wbc_diffusers.evaluation.by_eye import look_at_cells
from wbc_diffusers.evaluation.copies import least_held_out
from wbc_diffusers.evaluation.copying import look_for_copies
from wbc_diffusers.evaluation.encoders import INCEPTION, Encoder, load_encoder
from wbc_diffusers.evaluation.features import Features, features_of
from wbc_diffusers.evaluation.found import Evaluation, Plan
from wbc_diffusers.evaluation.images import (
    ImageSet,
    ImageSetError,
    check_disjoint,
    read_set,
    same_processing,
)
from wbc_diffusers.evaluation.leaks import Leaks, find_leaks, find_shared, known_images, read_manifest
from wbc_diffusers.evaluation.record import write_record
from wbc_diffusers.evaluation.report import write_report
from wbc_diffusers.generation import process_state, settings_of
from wbc_diffusers.sampling import check_maker

JSON_NAME, PAGE_NAME = "evaluation.json", "index.html"

FEW_IMAGES = 2000
"""Below so many, the bias of the Fréchet distance hides most differences, and the kernel distance is preferred."""

Say = Callable[[str], None]


class LeakError(ValueError):
    """Images that are to judge a model are among those that it was trained on."""


def _nothing(line: str) -> None:
    """Say nothing."""


def evaluate(plan: Plan, out: Path, say: Say = _nothing) -> Evaluation | None:
    """Evaluate generated images and write `evaluation.json` and a page into a new folder.

    Under `accelerate launch` the images are dealt out to all processes to be encoded; the first one does the rest.

    Args:
        plan: What is evaluated.
        out: The folder; it must be new or empty. It appears whole or not at all.
        say: Called with a line as each stage begins.

    Returns:
        What was found; None in other processes than the first.

    Raises:
        FileExistsError: If the folder holds anything.
        FileNotFoundError: If a folder, or a manifest, is not there.
        ImageSetError: If a set cannot be evaluated, or two of them share images.
        CacheError: If the cache cannot be used.
        OSError: If the folder cannot be made.
        LeakError: If the model was trained on images of the real set, and that is not allowed.
        EncoderError: If an encoder cannot be had.
        ValueError: If another model made the generated images than the one that is named.
    """
    state = process_state()
    if not state.is_main_process:
        _find(plan, state, _nothing)
        return None
    folders = [each for each in (plan.real, plan.generated, plan.train) if each is not None]
    with whole_folder(check_output(out, *folders)) as folder:
        found = _find(plan, state, say)
        assert found is not None
        say("writing the report")
        write_record(found, folder / JSON_NAME)
        write_report(found, folder / PAGE_NAME)
    return found


def _find(plan: Plan, state: PartialState, say: Say) -> Evaluation | None:
    """Measure all that is wanted; other processes than the first help to encode, and get None."""
    if plan.inception_weights is not None and INCEPTION not in plan.encoders:
        raise ValueError(f"--inception-weights are given, but no encoder {INCEPTION}: give that too, or neither.")
    encoders = [load_encoder(name, state.device, plan.inception_weights) for name in plan.encoders]
    say("reading images")
    real, generated, train = _read_sets(plan)
    manifest = None if plan.model is None else read_manifest(plan.model)
    is_checked = _check_model(plan)
    leaks = _look_for_leaks(plan, manifest, real, train)
    sets = [each for each in (real, generated, train) if each is not None]
    processing = same_processing(sets, plan.size, plan.share)

    def features(encoder: Encoder, images: ImageSet) -> Features:
        say(f"{encoder.name}: {len(images)} {images.role} images")
        return features_of(images, encoder, processing, cache=plan.cache, state=state)

    by_encoder = [[features(encoder, images) for images in sets] for encoder in encoders]
    if not state.is_main_process:
        return None
    say("comparing")
    # Training images that are real ones too would give a floor of nothing.
    has_floor = train is not None and not leaks[_training_set(train)].paths
    comparisons = [
        compare_by(encoder, ours, theirs, rest[0] if has_floor else None, plan.seed)
        for encoder, (ours, theirs, *rest) in zip(encoders, by_encoder, strict=True)
    ]
    say("measuring cells")
    by_eye = look_at_cells(real, generated, train if has_floor else None, processing, plan.cache, plan.seed)
    seen = {path for each in leaks.values() for path in each.paths}
    held_out = np.array([path not in seen for path in real.paths])
    copying = None
    if train is not None and held_out.sum() >= least_held_out():
        of_real, of_generated, of_train = by_encoder[0]
        sets_of_copies = real.only(held_out), generated, train
        features_of_copies = of_real[held_out], of_generated, of_train
        copying = look_for_copies(sets_of_copies, features_of_copies, encoders[0], processing, plan.seed, say)
    notes = [
        *processing.in_words(sets),
        *_notes_on_sets(sets),
        *_notes_on_distances(sets, comparisons, has_floor),
        *_notes_on_copies(train, leaks, int(held_out.sum())),
        *_notes_on_model(manifest, train, is_checked),
    ]
    return Evaluation(plan, real, generated, train, processing, comparisons, by_eye, copying, leaks, notes)


def _read_sets(plan: Plan) -> tuple[ImageSet, ImageSet, ImageSet | None]:
    real = read_set(plan.real, "real", where=plan.where)
    generated = read_set(plan.generated, "generated", generated=True)
    train = None if plan.train is None else read_set(plan.train, "training", where=plan.where)
    check_disjoint(real, generated)
    if train is not None and set(train.pixel_hashes) == set(generated.pixel_hashes):
        raise ImageSetError("The training images and the generated ones are the same: give those of the training.")
    return real, generated, train


def _check_model(plan: Plan) -> bool:
    """Raise ValueError if another model made the generated images; False where nobody can say which did."""
    settings = settings_of(plan.generated)
    if plan.model is None or settings is None:
        return False
    if not (plan.model / "model_index.json").is_file() or not any(plan.model.glob("*/*.safetensors")):
        return False
    check_maker(plan.model, plan.generated, settings)
    return True


def _look_for_leaks(
    plan: Plan, manifest: Mapping[str, Any] | None, real: ImageSet, train: ImageSet | None
) -> dict[str, Leaks]:
    """Real images that the model was trained on: by its manifest, and by the training images that were given."""
    found = {}
    if manifest is not None:
        found[f"The model {shown(public_name(str(plan.model)))}"] = find_leaks(real, manifest)
    if train is not None:
        found[_training_set(train)] = find_shared(real, train)
    for whose, leaks in found.items():
        if leaks.paths and not plan.allow_leaks:
            raise LeakError(
                f"{whose} has seen what is to judge it, such as {shown(leaks.paths[0].name)}: {leaks.in_words} Give "
                "real images that are none of them, or --allow-leaks."
            )
    return found


def _training_set(train: ImageSet) -> str:
    return f"The training set {shown(public_name(str(train.folder)))}"


def _notes_on_sets(sets: Sequence[ImageSet]) -> list[str]:
    notes = []
    repeated = [f"{each.repeated} of the {each.role} images" for each in sets if each.repeated]
    if repeated:
        notes.append(f"The same pixels again have {' and '.join(repeated)}.")
    others = [f"{len(each.other_files)} beside the {each.role} images" for each in sets if each.other_files]
    if others:
        notes.append(f"Files that are no images were left alone: {'; '.join(others)}.")
    return notes


def _notes_on_distances(sets: Sequence[ImageSet], comparisons: Sequence[Comparison], has_floor: bool) -> list[str]:
    notes = []
    least = min(len(each) for each in sets[:2])
    if least < FEW_IMAGES:
        notes.append(
            f"With {least} images the Fréchet distance is mostly its own bias: go by the kernel distance, which has "
            "none, and hold every distance beside its floor."
        )
    notes += [
        f"{each.encoder} has {each.features} features; with fewer than {4 * each.features} images of each set its "
        "Fréchet distance can't be extrapolated to infinitely many."
        for each in comparisons
        if each.line[0][0] < each.features
    ]
    if not has_floor:
        notes.append(
            "The floor is one half of the real images against the other. Training images that are not among the real "
            "ones, given by --train, would be the floor."
        )
    return notes


def _notes_on_copies(train: ImageSet | None, leaks: dict[str, Leaks], held_out: int) -> list[str]:
    notes = []
    if train is None:
        notes.append("Copies were not looked for: that needs the training images, given by --train.")
    elif held_out < least_held_out():
        notes.append(
            f"Copies were not looked for: {held_out} real images are too few to say how near to the training images "
            f"one may come that is no copy; {least_held_out()} are needed."
        )
    return notes + [f"{whose}: {each.in_words}" for whose, each in leaks.items()]


def _notes_on_model(manifest: Mapping[str, Any] | None, train: ImageSet | None, is_checked: bool) -> list[str]:
    """What the manifest says of the images that were given as those of the training, or that nobody asked it."""
    if manifest is None:
        return ["Whether the model was trained on the real images was not looked up: that needs it, given by --model."]
    notes = []
    if not is_checked:
        notes.append(
            "That the generated images are those of the model could not be checked: that needs its folder, with the "
            "weights, and images that `wbc generate` made."
        )
    if train is not None:
        known, given = known_images(manifest), set(train.pixel_hashes)
        if known != given:
            notes.append(
                f"{len(known & given)} of the {len(known)} images that the model was trained on, with the models that "
                f"it was made from, are among the {len(given)} training images, and copies were looked for in these."
            )
    return notes
