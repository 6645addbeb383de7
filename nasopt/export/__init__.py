"""From a found network to a file for its target: ONNX, int8 ONNX, LiteRT, ExecuTorch, `torch.export`; checked before done."""

from nasopt.export.accuracy import top1
from nasopt.export.c import CReport, to_c
from nasopt.export.calibration_files import write_calibration_models
from nasopt.export.executorch import to_executorch
from nasopt.export.int8 import to_int8_onnx
from nasopt.export.integer import IntegerProgram, integer_program
from nasopt.export.onnx_file import to_onnx
from nasopt.export.program import to_exported_program
from nasopt.export.quantised_onnx import to_quantised_onnx
from nasopt.export.report import ExportReport, TargetCost
from nasopt.export.runtime import open_session
from nasopt.export.tflite import to_tflite
from nasopt.export.torch_layers import to_torch_layers
from nasopt.export.vela import VelaCost, vela_cost

__all__ = [
    "CReport",
    "ExportReport",
    "IntegerProgram",
    "TargetCost",
    "VelaCost",
    "integer_program",
    "open_session",
    "to_c",
    "to_executorch",
    "to_exported_program",
    "to_int8_onnx",
    "to_onnx",
    "to_quantised_onnx",
    "to_tflite",
    "to_torch_layers",
    "top1",
    "vela_cost",
    "write_calibration_models",
]
