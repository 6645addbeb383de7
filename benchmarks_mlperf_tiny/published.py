"""Published results of the study that this benchmark follows: parameters and accuracy [%].

Mean accuracy of six fine-tunings, size regularizer, parameters as PyTorch counts them, on the original data sets.
Figures from other data (embedded, stand-in) are not comparable with them and are drawn apart.
"""

from __future__ import annotations

Curve = list[tuple[int, float]]

SEEDS: dict[str, tuple[int, float]] = {"ic": (78_052, 88.0), "kws": (40_396, 91.88), "vww": (213_586, 83.32)}

CURVES: dict[str, dict[str, Curve]] = {
    "ic": {
        "pit": [(62_543, 87.5), (35_326, 86.67), (31_218, 85.42), (17_222, 83.17), (11_400, 78.08)],
        "supernet": [(103_722, 88.42), (54_954, 88.25), (20_714, 87.0), (14_954, 84.17)],
        "pit_supernet": [(78_338, 88.5), (39_568, 84.75), (38_828, 82.58), (16_810, 81.5)],
        "pit_after_supernet": [
            (45_330, 88.5),
            (35_489, 88.0),
            (14_729, 80.7),
            (9_266, 77.2),
            (20_157, 85.0),
            (17_483, 83.5),
            (14_290, 81.2),
            (7_854, 79.1),
        ],
    },
    "kws": {
        "pit": [(40_255, 92.36), (22_802, 91.52), (12_482, 88.95), (9_082, 86.13)],
        "supernet": [(40_908, 92.05), (35_852, 90.64), (25_740, 88.72), (20_684, 84.0)],
        "pit_supernet": [(47_058, 89.95), (18_438, 88.82), (11_023, 87.56), (7_623, 84.20)],
        "pit_after_supernet": [(32_607, 91.32), (24_794, 91.23), (13_647, 88.85), (11_895, 88.46)],
    },
    "vww": {
        "pit": [(13_736, 84.82), (12_751, 84.7), (9_914, 84.49), (2_564, 80.78)],
        "supernet": [(155_786, 84.82), (105_674, 84.68), (55_418, 83.52), (49_554, 82.01)],
        "pit_after_supernet": [
            (13_908, 85.14),
            (10_581, 84.19),
            (8_881, 83.86),
            (4_148, 81.76),
            (4_253, 83.76),
            (3_933, 83.68),
            (2_903, 82.29),
        ],
    },
}
