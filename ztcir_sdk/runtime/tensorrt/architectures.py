"""The compute architectures of NVIDIA GPUs, by the name of the GPU.

Source of the table: https://developer.nvidia.com/cuda-gpus.
"""

from __future__ import annotations

import re

from ztcir_sdk.errors import UsageError

_GPUS = {
    "sm_75": "t4 rtx2060 rtx2070 rtx2080 rtx2080ti gtx1650",
    "sm_80": "a100 a30",
    "sm_86": (
        "rtx3050 rtx3050ti rtx3060 rtx3060ti rtx3070 rtx3070ti rtx3080 rtx3080ti rtx3090 rtx3090ti "
        "rtxa2000 rtxa3000 rtxa4000 rtxa5000 rtxa6000 a2 a10 a16 a40"
    ),
    "sm_87": "orin agxorin orinnx orinnano",
    "sm_89": (
        "rtx4050 rtx4060 rtx4060ti rtx4070 rtx4070ti rtx4080 rtx4090 rtx2000ada rtx4000ada "
        "rtx4500ada rtx5000ada rtx6000ada l4 l40 l40s"
    ),
    "sm_90": "h100 h200 gh200",
    "sm_100": "b200 gb200",
    "sm_103": "b300 gb300",
    "sm_110": "thor t4000 t5000",
    "sm_120": (
        "rtx5050 rtx5060 rtx5060ti rtx5070 rtx5070ti rtx5080 rtx5090 rtxpro2000 rtxpro4000 "
        "rtxpro4500 rtxpro5000 rtxpro6000"
    ),
    "sm_121": "gb10 dgxspark",
}
_BY_NAME = {name: sm for sm, names in _GPUS.items() for name in names.split()}
_DECORATION = re.compile(r"nvidia|geforce|quadro|jetson|tesla|blackwell|[^a-z0-9]")


def architecture_of(name: str) -> str:
    """Return the architecture, such as "sm_86", for "sm_86", "8.6" or a GPU's name, "RTX 3090".

    Raises:
        UsageError: the table has no GPU of that name.
    """
    given = name.strip().lower()
    if match := re.fullmatch(r"(?:sm|compute)?_?([1-9][0-9]{1,2})", given):
        return f"sm_{match[1]}"
    if match := re.fullmatch(r"([1-9][0-9]?)\.([0-9])", given):
        return f"sm_{match[1]}{match[2]}"
    plain = _DECORATION.sub("", given)
    if plain not in _BY_NAME:
        raise UsageError(
            f"The GPU {name!r} is unknown: give its architecture, such as sm_86; "
            "https://developer.nvidia.com/cuda-gpus lists it for every GPU."
        )
    return _BY_NAME[plain]


def gpu_names(architecture: str) -> list[str]:
    """Return the names of an architecture's GPUs in the table."""
    return _GPUS.get(architecture, "").split()
