"""Devices that ONNX Runtime reaches through a provider of their maker, each by a name of its own.

They are never chosen by themselves: ``--device openvino`` asks for one. All of them compute in fp32
where an option allows it, so that queries match a gallery that a CPU has encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ztcir_sdk.errors import ZtcirError

__all__ = ["NAMED_DEVICES", "NamedDevice", "named_device_error", "provider_options"]


@dataclass(frozen=True)
class NamedDevice:
    """A device by name.

    Attributes:
        provider: ONNX Runtime's name of its execution provider.
        distribution: the distribution of ONNX Runtime that has the provider.
        hardware: what it runs on, for messages.
        options: options of the provider.
        plain_memory: whether memory must not be planned ahead, which the provider does not support.
        threads_option: option of the provider that takes the number of CPU threads.
    """

    provider: str
    distribution: str
    hardware: str
    options: Mapping[str, str]
    plain_memory: bool = False
    threads_option: str | None = None


NAMED_DEVICES: Mapping[str, NamedDevice] = MappingProxyType(
    {
        "openvino": NamedDevice(
            "OpenVINOExecutionProvider",
            "onnxruntime-openvino",
            "Intel processors, on Linux and Windows",
            # without a precision, processors with bfloat16 would compute in it
            {"device_type": "CPU", "precision": "FP32"},
            threads_option="num_of_threads",
        ),
        "coreml": NamedDevice(
            "CoreMLExecutionProvider",
            "onnxruntime",
            "macOS",
            {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"},
        ),
        "directml": NamedDevice(
            "DmlExecutionProvider",
            "onnxruntime-directml",
            "Windows with a GPU for DirectX 12",
            {"device_id": "0"},
            plain_memory=True,
        ),
        "qnn": NamedDevice(
            "QNNExecutionProvider",
            "onnxruntime-qnn",
            "Qualcomm processors",
            {"backend_type": "htp", "enable_htp_fp16_precision": "1"},
        ),
    }
)
"""Name of a device -> what runs on it."""


def provider_options(name: str, threads: int) -> dict[str, str]:
    """Return the options of a named device's provider, with the CPU threads that it may use."""
    device = NAMED_DEVICES[name]
    own = {} if device.threads_option is None else {device.threads_option: str(threads)}
    return {**device.options, **own}


def named_device_error(name: str, why: str) -> ZtcirError:
    """Return the error for a named device that cannot be used, with the way out.

    Args:
        name: one of `NAMED_DEVICES`.
        why: what failed.
    """
    device = NAMED_DEVICES[name]
    fix = f"pip install {device.distribution}"
    if device.distribution != "onnxruntime":  # both install the same package
        fix = f"pip uninstall onnxruntime, then {fix}"
    return ZtcirError(
        f"The device {name} cannot be used ({why}): {fix}, on {device.hardware}, or choose device "
        "cpu."
    )
