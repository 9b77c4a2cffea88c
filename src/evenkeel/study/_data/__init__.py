"""The data of a study: read from one of four kinds of source, checked, split and standardised.

``_formats`` knows the kinds (one reader each: ``_npz``, ``_idx``, ``_folder``) and ``_checks``
what no network could be trained on; ``_scaling`` and ``_pictures`` prepare what is kept.
"""

from __future__ import annotations

from evenkeel.study._data._dataset import MAX_TEST, DataInfo, Dataset, load_dataset

__all__ = ["MAX_TEST", "DataInfo", "Dataset", "load_dataset"]
